"""The time that the prefix cache saves when all requests begin with the same system prompt of 500 tokens.

Two engines on the same model, one with the cache and one without, answer the same questions in turns, one at a time;
which of them goes first changes with every question. The first question fills the cache and is told apart.

python -m benchmarks.prefix_cache [--model DIRECTORY] [--questions 30] [--system-tokens 500] [--output-tokens 32]
"""

import argparse
import math
import statistics
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.result import ceiling, interleaved, median_ratio, publish
from servery import amuse
from servery.engine.chat_template import ChatTemplate
from servery.engine.config import EngineConfig
from servery.engine.core import EngineCore
from servery.engine.request import NewRequest, SamplingParams
from servery.engine.tokenizer import Tokenizer

FACTS = """You answer questions about the Harbor Lights bookshop. The shop opens at nine and closes at six, on Saturdays
at four; on Sundays it stays closed. Books can be returned within thirty days with their receipt. Gift cards are sold at
the desk and never expire. Orders are sent within two days; sending is free above forty euros. The reading room on the
second floor has twelve seats and a fireplace. Children under ten need to be with an adult. Staff can order any book
that is in print; most arrive within a week. Used books are bought on Tuesdays between ten and noon.""".split()
FIGURES = ("ttft_s", "total_s", "ttft_cpu_s", "total_cpu_s")
THINGS = "atlases calendars candles comics cookbooks diaries games globes journals maps notebooks novels pens".split()


def system_prompt(tokenizer: Tokenizer, tokens: int) -> str:
    """The facts over and over, as many words as fit in `tokens` tokens."""
    words: list[str] = []
    while len(tokenizer.encode(" ".join(words))) <= tokens:
        words.append(FACTS[len(words) % len(FACTS)])
    return " ".join(words[:-1])


def prompts(tokenizer: Tokenizer, template: ChatTemplate, system: str, number: int) -> list[list[int]]:
    """Token ids of `number` conversations that differ in their question only."""
    return [
        template.encode(
            tokenizer,
            [
                {"role": "system", "content": system},
                {"role": "user", "content": f"Question {index}: do you sell {THINGS[index % len(THINGS)]}?"},
            ],
        )
        for index in range(number)
    ]


def answer(core: EngineCore, request: NewRequest) -> dict[str, float]:
    """Seconds to the first token and to the last, wall and CPU, and how many prompt tokens the cache supplied."""
    began, began_cpu, first_s, first_cpu_s, cached = perf_counter(), process_time(), 0.0, 0.0, 0
    core.add(request, seed=0)
    while core.has_work:
        for output in core.step():
            first_s = first_s or perf_counter() - began
            first_cpu_s = first_cpu_s or process_time() - began_cpu
            cached = max(cached, output.cached_tokens)
    return {
        "ttft_s": first_s,
        "total_s": perf_counter() - began,
        "ttft_cpu_s": first_cpu_s,
        "total_cpu_s": process_time() - began_cpu,
        "cached_tokens": cached,
    }


def measure(
    cores: dict[str, EngineCore], questions: list[list[int]], output_tokens: int, budget_s: float = math.inf
) -> dict[str, Any]:
    """Every question on every core, in turns, as many as there is time for."""
    params = SamplingParams(max_tokens=output_tokens, temperature=0.0, ignore_eos=True)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in cores}
    for number, name in interleaved(tuple(cores), len(questions), budget_s):
        request = NewRequest(request_id=f"{name}-{number}", prompt=questions[number], params=params)
        runs[name].append(answer(cores[name], request))
    return {"runs": runs}


def compare(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Without the cache over with it, question by question after the first."""
    warm = {name: of_core[1:] for name, of_core in runs.items()}
    ratios = {
        figure: median_ratio([run[figure] for run in warm["off"]], [run[figure] for run in warm["on"]])
        for figure in FIGURES
    }
    saved = {figure: 100 * (1 - 1 / ratio["median"]) for figure, ratio in ratios.items()}
    return {"ratios_off_over_on": ratios, "time_saved_percent": saved}


def table(runs: dict[str, list[dict[str, float]]], prompt_tokens: int) -> Table:
    """Medians with and without."""
    shown = Table("cache", "first token ms", "whole answer ms", "cached prompt tokens")
    for name, of_core in runs.items():
        ttft, total = (1e3 * statistics.median(run[key] for run in of_core[1:]) for key in ("ttft_s", "total_s"))
        cached = statistics.median(run["cached_tokens"] for run in of_core[1:])
        shown.add_row(name, f"{ttft:.1f}", f"{total:.1f}", f"{cached:.0f} of {prompt_tokens}")
    return shown


def main() -> None:
    """Measure, print, publish."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", type=Path, help="directory of a checkpoint; else amuse")
    arguments.add_argument("--questions", type=int, default=30)
    arguments.add_argument("--system-tokens", type=int, default=500)
    arguments.add_argument("--output-tokens", type=int, default=32)
    arguments.add_argument("--threads", type=int)
    options = arguments.parse_args()
    model = options.model or amuse.path()
    tokenizer, template = Tokenizer.load(model), ChatTemplate.load(model)
    if template is None:
        raise SystemExit(f"{model} has no chat template; name a chat model with --model")
    questions = prompts(tokenizer, template, system_prompt(tokenizer, options.system_tokens), options.questions)
    cores = {
        name: EngineCore(EngineConfig(model=model, prefix_cache=on, threads=options.threads, kv_memory_bytes=64 << 20))
        for name, on in (("off", False), ("on", True))
    }
    for core in cores.values():  # warm up on something else
        answer(core, NewRequest(request_id="warm", prompt=[5] * 300, params=SamplingParams(max_tokens=8)))
    figures = measure(cores, questions, options.output_tokens)
    figures |= compare(figures["runs"])
    console = Console()
    console.print(table(figures["runs"], len(questions[0])))
    saved = figures["time_saved_percent"]
    console.print(f"saved: {saved['ttft_s']:.1f} % of the time to the first token, {saved['total_s']:.1f} % of all")
    console.print(f"of CPU time: {saved['ttft_cpu_s']:.1f} % and {saved['total_cpu_s']:.1f} %")
    settings = {"system_tokens": options.system_tokens, "output_tokens": options.output_tokens}
    publish("prefix_cache", {"settings": settings, "bandwidth": ceiling(), **figures})


if __name__ == "__main__":
    main()
