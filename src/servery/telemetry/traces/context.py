"""Where a request stands in a trace, as headers say it: W3C Trace Context, level 1 (https://www.w3.org/TR/trace-context-1/)."""

import os
import random
import re
import secrets
from typing import NamedTuple

# Version 00 has nothing behind the flags; a later one may.
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_SAMPLED = 1
_MOST_STATE_CHARS = 512
_STATE = re.compile(r"[\x20-\x7e]*", re.ASCII)

_chance = random.Random(secrets.randbits(256))
# Processes that are forks of one must not go on alike: their ids would be the same.
os.register_at_fork(after_in_child=lambda: _chance.seed(secrets.randbits(256)))


class Parent(NamedTuple):
    """The caller's span; `state` is what others have written into `tracestate`, to be passed on as it is."""

    trace_id: int
    span_id: int
    is_sampled: bool
    state: str = ""


def parent_of(traceparent: str | None, tracestate: str | None = None) -> Parent | None:
    """What two headers say; None for none, and for such as are to be ignored: a new trace begins."""
    match = None if traceparent is None else _PARENT.fullmatch(traceparent.strip())
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    is_known = version != "ff" and (more is None or version != "00")
    if not is_known or int(trace_id, 16) == 0 or int(span_id, 16) == 0:
        return None
    return Parent(int(trace_id, 16), int(span_id, 16), bool(int(flags, 16) & _SAMPLED), _state(tracestate))


def _state(given: str | None) -> str:
    """A list that is longer than must be passed on, or that no header can carry, is dropped as a whole."""
    text = (given or "").strip()
    return text if len(text) <= _MOST_STATE_CHARS and _STATE.fullmatch(text) else ""


def traceparent(trace_id: int, span_id: int, *, is_sampled: bool) -> str:
    """The header for whoever is asked by this span."""
    return f"00-{trace_id:032x}-{span_id:016x}-{int(is_sampled):02x}"


def new_trace_id() -> int:
    """128 random bits, not all 0."""
    return _chance.getrandbits(128) or 1


def new_span_id() -> int:
    """64 random bits, not all 0."""
    return _chance.getrandbits(64) or 1
