"""The requests of a run, made before the first is sent: prompts, lengths, and when each is due."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from servery.bench.errors import BadTrace
from servery.bench.open_loop import Planned
from servery.bench.options import LoadOptions, WorkOptions
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
        return _timed([replace(one, input_tokens=work.prompt_tokens.draw(lengths)) for one in drawn], work, load)
    recorded = _recorded(work.trace, count, work.seed)
    if len(recorded) <= load.warmup:
        raise BadTrace(f"{work.trace} has {len(recorded)} requests, no more than the {load.warmup} of the warm-up.")
    return _timed([_scaled(one, work.scale_tokens) for one in recorded], work, load)


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
    times = load.arrivals.offsets(len(requests) - load.warmup, random.Random(work.seed + 3))
    return [replace(one, at_s=at) for one, at in zip(requests, [0.0] * load.warmup + times, strict=True)]


async def plan(target: Target, work: WorkOptions, requests: list[TraceRequest], advance: Advance) -> list[Planned]:
    """The requests themselves; the same for the same seed."""
    maker = PromptMaker(target.counter, work.shared_prefix_tokens, work.seed)
    planned = []
    for one in requests:
        messages = await _prompt(maker, one)
        planned.append(Planned(one.at_s, _request(target, work, messages, one.output_tokens)))
        advance()
    return planned


async def _prompt(maker: PromptMaker, one: TraceRequest) -> Messages:
    if one.blocks:
        return await maker.from_blocks(one.blocks, one.block_tokens, one.input_tokens)
    return await maker.make(max(1, one.input_tokens))


def _request(target: Target, work: WorkOptions, messages: Messages, output_tokens: int) -> dict[str, Any]:
    request = {"model": target.model, "messages": messages, "max_tokens": max(1, output_tokens), **request_like(work)}
    return target.dialect.speak(request)
