"""What a step costs besides the model, part by part, in one process: the same classes as an engine and its server run.

Messages are written and read but not sent, and nobody waits for them; `benchmarks.host_overhead` tells what that adds.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import msgspec

from servery.engine.batch import Batch
from servery.engine.channel import FrameReader, FromCore, Outputs, frame
from servery.engine.completion import TextAssembler
from servery.engine.config import EngineConfig
from servery.engine.core import EngineCore
from servery.engine.loaded_model import LoadedModel
from servery.engine.request import NewRequest, SamplingParams
from servery.engine.runner import Runner
from servery.engine.scheduler import Scheduler
from servery.engine.tokenizer import Tokenizer

PARTS = ("scheduling", "batching", "sampling", "rest of the engine", "messages", "text")
_WATCHED = {
    "scheduling": ((Scheduler, "schedule"), (Scheduler, "commit"), (Scheduler, "observe")),
    "batching": ((Batch, "__init__"),),
    "sampling": ((Runner, "_sample"),),
}
_PROMPT_TOKENS = 32
_WARM_UP_STEPS = 40

Load = Callable[..., LoadedModel]


class _Watch:
    """CPU seconds of this thread, by part; adding up takes 0.3 µs each time, which counts too."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        began = time.thread_time()
        try:
            yield
        finally:
            self.seconds[name] += time.thread_time() - began

    def watched(self, name: str, really: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            began = time.thread_time()
            try:
                return really(*arguments, **options)
            finally:
                self.seconds[name] += time.thread_time() - began

        return timed


def parts(sequences: int, steps: int, params: SamplingParams, load: Load, config: EngineConfig) -> dict[str, float]:
    """The median over steps of each part's CPU seconds, for so many sequences that decode."""
    watch, reader = _Watch(), FrameReader()
    encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(FromCore)
    with ExitStack() as patches:
        patches.enter_context(patch("servery.engine.core.load", load))
        for name, methods in _WATCHED.items():
            for owner, method in methods:
                patches.enter_context(patch.object(owner, method, watch.watched(name, getattr(owner, method))))
        core = EngineCore(config)
        tokenizer = Tokenizer.load(config.model)
        texts = dict(_assemblers(core, sequences, steps + _WARM_UP_STEPS + 2, params, tokenizer))
        seen: list[dict[str, float]] = []
        for _ in range(_WARM_UP_STEPS + steps):
            watch.seconds = dict.fromkeys(PARTS, 0.0)
            with watch.part("rest of the engine"):
                outputs = core.step()
            with watch.part("messages"):
                payloads = reader.feed(frame(encoder.encode(Outputs(outputs=outputs, stats=core.stats()))))
                message = decoder.decode(payloads[0])
            with watch.part("text"):
                for output in message.outputs:
                    texts[output.request_id].feed(output)
            watch.seconds["rest of the engine"] -= sum(watch.seconds[name] for name in _WATCHED)
            seen.append(watch.seconds)
    return {name: statistics.median(each[name] for each in seen[_WARM_UP_STEPS:]) for name in PARTS}


def _assemblers(
    core: EngineCore, sequences: int, tokens: int, params: SamplingParams, tokenizer: Tokenizer
) -> Iterator[tuple[str, TextAssembler]]:
    """Queue the requests; what makes text of each."""
    for number in range(sequences):
        prompt = [(number + at) % 100 for at in range(_PROMPT_TOKENS)]
        fields = {field: getattr(params, field) for field in params.__struct_fields__} | {"max_tokens": tokens}
        request = NewRequest(request_id=f"chatcmpl-{number:032d}", prompt=prompt, params=SamplingParams(**fields))
        core.add(request, number)
        yield request.request_id, TextAssembler(request, 0, tokenizer)
