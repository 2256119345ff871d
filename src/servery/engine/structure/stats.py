"""What constraints cost: counters since the start."""

import msgspec


class StructureStats(msgspec.Struct, frozen=True, kw_only=True):
    """`hits` are requests whose grammar was kept from another; `mask_s` is time of the thread that fills masks."""

    compiled: int = 0
    refused: int = 0
    hits: int = 0
    compile_s: float = 0.0
    masks: int = 0
    mask_s: float = 0.0
    forced_tokens: int = 0  # proposed because the grammar leaves no choice
