"""The limits that the scheduler keeps."""

import math
from dataclasses import dataclass

from servery.engine.errors import LoadError


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Validated when made; raises `LoadError` naming the value, the limit and what to do.

    `max_step_tokens` bounds the tokens of a step; while anything decodes, a step is also kept under `target_step_s` by
    measured cost; while nobody does, under `longest_step_s`, so that aborts and heartbeats pass; with nothing but the
    background, under `background_step_s`, so that whoever comes waits little (None: no such limit). `prefill_share` is
    the fraction of a step that one sequence's prefill may take while others want to prefill too; what they leave it gets. A sequence is admitted only if its tokens so far fit and
    the fraction `watermark` of the blocks then remains available for those that run to grow into.
    `model_id` goes into every block digest. Token ids are below `vocab_size`.
    """

    num_blocks: int
    block_size: int
    max_model_len: int
    max_running: int
    max_step_tokens: int
    max_waiting_requests: int = 512
    max_waiting_tokens: int = 1_000_000
    prefill_share: float = 0.5
    watermark: float = 0.05
    target_step_s: float | None = 0.05
    longest_step_s: float | None = 1.0
    background_step_s: float | None = 0.01
    enable_prefix_cache: bool = True
    eos_token_ids: frozenset[int] = frozenset()
    vocab_size: int = 2**31
    model_id: str = ""

    def __post_init__(self) -> None:
        counts = ("num_blocks", "block_size", "max_running", "max_step_tokens", "max_waiting_requests")
        for name in (*counts, "max_waiting_tokens", "vocab_size"):
            if getattr(self, name) < 1:
                raise LoadError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.max_model_len < 2:
            raise LoadError(f"max_model_len is {self.max_model_len}; a prompt token and an answer need at least 2.")
        if not 0.0 < self.prefill_share <= 1.0:
            raise LoadError(f"prefill_share is {self.prefill_share}; it must be above 0 and at most 1.")
        if not 0.0 <= self.watermark < 1.0:
            raise LoadError(f"watermark is {self.watermark}; it must be at least 0 and below 1.")
        for name in ("target_step_s", "longest_step_s", "background_step_s"):
            limit_s = getattr(self, name)
            if limit_s is not None and not limit_s > 0.0:
                raise LoadError(f"{name} is {limit_s}; it must be above 0, or None for no such limit.")
        self._check_capacity()

    def _check_capacity(self) -> None:
        if self.max_running > self.max_step_tokens:
            raise LoadError(
                f"max_running is {self.max_running} and max_step_tokens is {self.max_step_tokens}; "
                "a step must have room for one token of every running sequence: raise max_step_tokens."
            )
        capacity = self.num_blocks * self.block_size
        if capacity < self.max_model_len:
            raise LoadError(
                f"the KV cache holds {capacity} tokens ({self.num_blocks} blocks of {self.block_size}) and "
                f"max_model_len is {self.max_model_len}; one sequence must fit: give it more memory or lower "
                "max_model_len."
            )

    @property
    def watermark_blocks(self) -> int:
        """Blocks that an admission must leave available."""
        return math.ceil(self.watermark * self.num_blocks)
