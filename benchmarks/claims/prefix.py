"""What a shared system prompt of 500 tokens costs with and without the prefix cache: time, tokens, memory."""

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.claims.claim import Reading
from benchmarks.claims.measurement import Figures, Measurement, Readings, ratio, spread
from benchmarks.claims.stage import Stage
from benchmarks.prefix_cache import compare, measure, prompts, system_prompt
from servery.engine.chat_template import ChatTemplate, no_chat_template
from servery.engine.core import EngineCore
from servery.engine.request import NewRequest, SamplingParams
from servery.engine.tokenizer import Tokenizer

TOGETHER = 16


def _measure(stage: Stage) -> dict[str, Any]:
    models = {"amuse": (stage.amuse, 30, 32), "148M": (stage.grown, 9, 16)}
    found: dict[str, Any] = {}
    for name, (path, questions, output) in models.items():
        asked = conversations(stage, max(TOGETHER, stage.pick(questions, 4)))
        cores = {"off": stage.engine(path), "on": stage.engine(path, prefix_cache=True)}
        runs = measure(cores, asked[: stage.pick(questions, 4)], stage.pick(output, 2), 20.0)["runs"]
        held = {cache: held_blocks(core, asked[:TOGETHER]) for cache, core in cores.items()}
        found[name] = {"runs": runs, **compare(runs), "held_blocks": held}
    return {"models": found}


def conversations(stage: Stage, number: int) -> list[list[int]]:
    """Prompts that begin with the same 500 tokens."""
    tokenizer, template = Tokenizer.load(stage.amuse), ChatTemplate.load(stage.amuse)
    if template is None:
        raise no_chat_template(str(stage.amuse))
    return prompts(tokenizer, template, system_prompt(tokenizer, stage.pick(500, 100)), number)


def held_blocks(core: EngineCore, asked: Sequence[list[int]]) -> int:
    """KV blocks that are held when all of these are being answered at the same time."""
    params = SamplingParams(temperature=0.0, ignore_eos=True)
    waiting = {f"together-{number}": prompt for number, prompt in enumerate(asked)}
    for name, prompt in waiting.items():
        core.add(NewRequest(request_id=name, prompt=prompt, params=params), seed=0)
    begun: set[str] = set()
    while len(begun) < len(waiting):
        begun |= {output.request_id for output in core.step()}
    held = core.stats().scheduler.held_blocks
    for name in waiting:
        core.abort(name)
    return held


def _readings(figures: Figures) -> Readings:
    models = figures["models"]
    cached = [run["cached_tokens"] for run in models["amuse"]["runs"]["on"][1:]]
    return {
        "prefix-tokens": [spread("amuse", cached)],
        "prefix-tokens-a-day": [Reading("amuse", 9_999 * statistics.median(cached) / 1e6)],
        "prefix-saves-compute": [ratio(name, each["ratios_off_over_on"]["ttft_s"]) for name, each in models.items()],
        "prefix-saves-memory": [
            Reading(name, each["held_blocks"]["off"] / each["held_blocks"]["on"]) for name, each in models.items()
        ],
    }


PREFIX = Measurement(
    "prefix",
    45.0,
    "A system prompt of 500 tokens and a short question, one conversation at a time, with and without the cache in turns; "
    "then 16 conversations at once.",
    _measure,
    _readings,
)
