"""The requests of a run, made before the first is sent: prompts, lengths, and when each is due."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from servery.bench.arrivals import Arrivals
from servery.bench.conversation import Turn
from servery.bench.errors import BadTrace
from servery.bench.options import LoadOptions, WorkOptions
from servery.bench.planned import Planned
from servery.bench.prompts import Messages, PromptMaker
from servery.bench.target import Target
from servery.bench.traces.formats import read_trace
from servery.bench.traces.request import TraceRequest, shaped
from servery.bench.traces.synthetic import KINDS, synthetic

Advance = Callable[[], None]


def request_like(work: WorkOptions) -> dict[str, Any]:
    """What all requests have in common besides the model."""
    common = {"temperature": work.temperature, "stream_options": {"include_usage": True}}
    return common if work.stop_at_eos else {**common, "ignore_eos": True}


def traffic(work: WorkOptions, load: LoadOptions) -> list[TraceRequest]:
    """Lengths and times of all requests, those of the warm-up first, at negative times.

    Raises `BadTrace` and `OSError`.
    """
    count = load.warmup + load.requests
    if work.trace is None:
        source = random.Random(work.seed + 1)
        drawn = [TraceRequest(0.0, 0, work.output_tokens.draw(source)) for _ in range(count)]
        lengths = random.Random(work.seed + 2)
        drawn = [replace(one, input_tokens=work.prompt_tokens.draw(lengths)) for one in drawn]
        return _timed(_joined(drawn, work, load) if work.is_conversation else drawn, work, load)
    recorded = _recorded(work.trace, count, work.seed)
    if len(recorded) <= load.warmup:
        raise BadTrace(f"{work.trace} has {len(recorded)} requests, no more than the {load.warmup} of the warm-up.")
    return _timed([_scaled(one, work.scale_tokens) for one in recorded], work, load)


def _joined(requests: list[TraceRequest], work: WorkOptions, load: LoadOptions) -> list[TraceRequest]:
    """What follows the warm-up as conversations, each a session; the last may be cut short."""
    source, session, left = random.Random(work.seed + 4), -1, 0
    joined = requests[: load.warmup]
    for one in requests[load.warmup :]:
        if left == 0:
            session, left = session + 1, work.turns.draw(source)
            joined.append(replace(one, session=str(session)))
        else:
            joined.append(replace(one, session=str(session), input_tokens=work.turn_tokens.draw(source)))
        left -= 1
    return joined


def _is_further(one: TraceRequest, before: TraceRequest | None) -> bool:
    """Whether a request goes on with the conversation of the one before."""
    return before is not None and one.session is not None and one.session == before.session


def _recorded(name: str, count: int, seed: int) -> list[TraceRequest]:
    if name in KINDS:
        return synthetic(name, count, seed)
    try:
        return read_trace(Path(name))[:count]
    except FileNotFoundError:
        raise BadTrace(f"{name!r} is no file, and no kind of traffic ({', '.join(KINDS)}).") from None


def _scaled(one: TraceRequest, factor: float) -> TraceRequest:
    if factor == 1:
        return one
    inputs, outputs = max(1, round(one.input_tokens * factor)), max(1, round(one.output_tokens * factor))
    block = max(1, round(one.block_tokens * factor))
    return replace(one, input_tokens=inputs, output_tokens=outputs, block_tokens=block)


def _timed(requests: list[TraceRequest], work: WorkOptions, load: LoadOptions) -> list[TraceRequest]:
    """With the times of the load: drawn, stretched to its rate, or the trace's own; the measured part begins at 0."""
    if load.is_replay:
        rate = load.arrivals.rate if load.arrivals else None
        try:
            requests = shaped(requests, rate=rate)
        except ValueError as error:
            raise BadTrace(f"{work.trace}: {error}.") from None
        start = requests[load.warmup].at_s
        return [replace(one, at_s=one.at_s - start) for one in requests]
    if load.arrivals is None:
        return requests
    if work.is_conversation:
        return _begun_at_a_rate(requests, load.arrivals, work.seed + 3, load.warmup)
    times = load.arrivals.offsets(len(requests) - load.warmup, random.Random(work.seed + 3))
    return [replace(one, at_s=at) for one, at in zip(requests, [0.0] * load.warmup + times, strict=True)]


def _begun_at_a_rate(requests: list[TraceRequest], arrivals: Arrivals, seed: int, warmup: int) -> list[TraceRequest]:
    """Conversations begin so often that all turns together come at the rate asked for."""
    counted = requests[warmup:]
    firsts = [not _is_further(one, before) for one, before in zip(counted, [None, *counted], strict=False)]
    rate = arrivals.rate * sum(firsts) / len(counted)
    times = iter(replace(arrivals, rate=rate).offsets(sum(firsts), random.Random(seed)))
    at_s, timed = 0.0, requests[:warmup]
    for one, is_first in zip(counted, firsts, strict=True):
        at_s = next(times) if is_first else at_s
        timed.append(replace(one, at_s=at_s))
    return timed


async def plan(target: Target, work: WorkOptions, requests: list[TraceRequest], advance: Advance) -> list[Planned]:
    """The requests themselves; the same for the same seed."""
    maker = PromptMaker(target.counter, work.shared_prefix_tokens, work.seed, work.opening)
    further = PromptMaker(target.counter, 0, work.seed + 5)
    thinking = random.Random(work.seed + 6)
    planned: list[Planned] = []
    before: TraceRequest | None = None
    for one in requests:
        if work.is_conversation and _is_further(one, before):
            think_s = thinking.expovariate(1 / work.think_s) if work.think_s else 0.0
            [message] = await further.make(one.input_tokens)
            turn = Turn(message["content"], think_s, target.dialect.speak({"max_tokens": max(1, one.output_tokens)}))
            planned[-1] = replace(planned[-1], turns=(*planned[-1].turns, turn))
        else:
            messages = await _prompt(maker, one)
            planned.append(Planned(one.at_s, _request(target, work, messages, one.output_tokens)))
        before = one
        advance()
    return planned


async def _prompt(maker: PromptMaker, one: TraceRequest) -> Messages:
    if one.blocks:
        return await maker.from_blocks(one.blocks, one.block_tokens, one.input_tokens)
    return await maker.make(max(1, one.input_tokens))


def _request(target: Target, work: WorkOptions, messages: Messages, output_tokens: int) -> dict[str, Any]:
    request = {"model": target.model, "messages": messages, "max_tokens": max(1, output_tokens), **request_like(work)}
    return target.dialect.speak(request)
