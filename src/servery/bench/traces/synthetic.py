"""Traffic with the statistics of recorded traces, for where these are not at hand.

| name | as | arrivals | prompt | answer |
|---|---|---|---|---|
| `chat` | Azure LLM 2023, conversation | 5.53/s, CV 1.09 | mean 1,155, p99 4,142 | mean 211, p99 601 |
| `code` | Azure LLM 2023, code | 2.57/s, CV 13.2 | median 1,469, mean 2,048 | median 13, mean 28 |
| `conversation` | Mooncake, FAST'25, conversation | 3.4/s | mean 12,035, 36.6 % of it in earlier prompts | mean 343 |

The first two figures of each row were read off the public files. A conversation is a session of turns: each prompt is
the last one and its answer, and something new; its blocks say so, as those of the Mooncake trace do.
"""

import random
from collections.abc import Callable
from itertools import count

from servery.bench.arrivals import Arrivals
from servery.bench.lengths import Lengths, LogNormal
from servery.bench.traces.request import TraceRequest

_BLOCK = 512
_TURNS = 1.62  # of a session on average, geometric: with these lengths 0.36 to 0.37 of all blocks come again
_OPENING = LogNormal(11_100, 80_000)
_REPLY = LogNormal(343, 1_120)
_NEW_TEXT = LogNormal(1_200, 12_000)
_THINKING_S = 40.0  # mean time between an answer and the next turn


def synthetic(name: str, requests: int, seed: int) -> list[TraceRequest]:
    """`requests` requests of the kind `name`, by time; the same for the same seed. Raises `KeyError`."""
    return KINDS[name](requests, random.Random(seed))


def _independent(arrivals: Arrivals, inputs: Lengths, outputs: Lengths) -> Callable[..., list[TraceRequest]]:
    def make(requests: int, source: random.Random) -> list[TraceRequest]:
        times = arrivals.offsets(requests, source)
        return [TraceRequest(at, inputs.draw(source), outputs.draw(source)) for at in times]

    return make


def _conversations(requests: int, source: random.Random) -> list[TraceRequest]:
    """Sessions begin as a Poisson process; their turns follow after an exponential pause."""
    names, made = count(), list[TraceRequest]()
    start_s, rate = 0.0, 3.4 / _TURNS
    # Later sessions may still put a turn before the last one kept, so twice as many are made as are needed.
    while len(made) < 2 * requests:
        start_s += source.expovariate(rate)
        made += _session(start_s, names, source)
    return sorted(made, key=lambda one: one.at_s)[:requests]


def _session(start_s: float, names: "count[int]", source: random.Random) -> list[TraceRequest]:
    turns, at_s, tokens = list[TraceRequest](), start_s, _OPENING.draw(source)
    session, blocks = str(next(names)), tuple[int, ...]()
    while True:
        whole = tokens // _BLOCK
        blocks = (*blocks[:whole], *(next(names) for _ in range(whole - len(blocks))))
        last = (next(names),) if tokens % _BLOCK else ()
        output = _REPLY.draw(source)
        turns.append(TraceRequest(at_s, tokens, output, blocks + last, _BLOCK, session))
        if source.random() < 1 / _TURNS:
            return turns
        tokens += output + _NEW_TEXT.draw(source)
        at_s += source.expovariate(1 / _THINKING_S)


KINDS: dict[str, Callable[..., list[TraceRequest]]] = {
    "chat": _independent(Arrivals(5.53, 1.09), LogNormal(1_155, 4_142), LogNormal(211, 601)),
    "code": _independent(Arrivals(2.57, 13.2), LogNormal.by_median(1_469, 2_048), LogNormal.by_median(13, 28)),
    "conversation": _conversations,
}
