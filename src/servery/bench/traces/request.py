"""One request of a trace."""

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """`at_s` counts from the first request; requests with equal leading `blocks` begin with the same tokens.

    `blocks` are names of runs of `block_tokens` tokens each, the last perhaps shorter; empty where the trace tells
    nothing of content.
    """

    at_s: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()
    block_tokens: int = 512
    session: str | None = None


def shaped(requests: Sequence[TraceRequest], *, rate: float | None) -> list[TraceRequest]:
    """The same requests, their times stretched so that they come at `rate` a second on average; None: as they are.

    Stretching keeps the bursts; requests of one instant cannot be stretched. Raises `ValueError`.
    """
    if rate is None or len(requests) < 2:
        return list(requests)
    span_s = requests[-1].at_s - requests[0].at_s
    if span_s <= 0:
        raise ValueError("all requests come at the same instant: no rate can be made of that")
    factor = (len(requests) - 1) / rate / span_s
    return [replace(one, at_s=(one.at_s - requests[0].at_s) * factor) for one in requests]
