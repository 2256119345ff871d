"""Time to the first token by the length of the prompt; time per token by the batch, and by what was written before."""

import statistics
from typing import Any

from benchmarks.claims.claim import Reading
from benchmarks.claims.measurement import Figures, Measurement, Readings, ratio
from benchmarks.claims.quantization import step_s
from benchmarks.claims.stage import Stage
from benchmarks.native_steps import Case
from benchmarks.prefix_cache import answer
from benchmarks.result import interleaved, median_ratio
from servery.bench.page.axis import Axis
from servery.bench.page.plot import Plot
from servery.engine.core import EngineCore
from servery.engine.request import NewRequest, SamplingParams

PROMPTS = (32, 64, 128, 256, 512, 1024)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
SHORT, MIDDLE, LONG = 100, 500, 1000
EARLY, LATE = 64, 1024


def _measure(stage: Stage) -> dict[str, Any]:
    room = {"kv_memory_bytes": stage.pick(1 << 30, 32 << 20), "max_running": 64}
    large = stage.engine(stage.large, dtype="bfloat16", **room)
    middle = stage.engine(stage.middle, dtype="bfloat16", **room)
    small = stage.engine(stage.amuse, **room)
    prompts, batches = stage.pick(PROMPTS, (8, 16)), stage.pick(BATCHES, (1, 2))
    context = stage.pick(128, 32)
    return {
        "ttft_s": {
            "473M": _first_tokens(large, prompts, stage.pick(3, 1), 35.0),
            "amuse": _first_tokens(small, prompts, stage.pick(5, 1), 10.0),
        },
        "step_s": {
            "473M": _steps(large, [Case(rows, 1, context) for rows in batches], stage.pick(6, 2)),
            "88M": _steps(middle, [Case(rows, 1, context) for rows in batches], stage.pick(6, 2)),
            "amuse": _steps(small, [Case(rows, 1, context) for rows in batches], stage.pick(20, 2)),
        },
        "context_s": {
            name: _steps(core, [Case(1, 1, length) for length in (EARLY, LATE)], stage.pick(8, 2))
            for name, core in (("473M", large), ("amuse", small))
        },
        "answers": {
            name: _answers(core, stage.pick((SHORT, MIDDLE, LONG), (2, 4, 8)), rounds)
            for name, core, rounds in (("88M", middle, stage.pick(2, 1)), ("amuse", small, stage.pick(5, 1)))
        },
    }


def _first_tokens(core: EngineCore, lengths: tuple[int, ...], rounds: int, budget_s: float) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {str(length): [] for length in lengths}
    answer(core, _request(16, 4))  # warm up
    for _, length in interleaved(tuple(found), rounds, budget_s):
        found[length].append(answer(core, _request(int(length), 1))["ttft_s"])
    return found


def _steps(core: EngineCore, cases: list[Case], rounds: int) -> dict[str, list[float]]:
    """Seconds of steps, by how many sequences, or by their length where that is what changes."""
    is_by_rows = len({case.context for case in cases}) == 1
    named = {str(case.rows if is_by_rows else case.context): case for case in cases}
    found: dict[str, list[float]] = {name: [] for name in named}
    for number, name in interleaved(tuple(named), rounds):
        took = step_s(core, named[name])
        if number:  # the first warms up
            found[name].append(took)
    return found


def _answers(core: EngineCore, lengths: tuple[int, ...], rounds: int) -> dict[str, list[dict[str, float]]]:
    """TTFT and total of answers of several lengths to the same prompt."""
    found: dict[str, list[dict[str, float]]] = {str(length): [] for length in lengths}
    for _, length in interleaved(tuple(found), rounds, 40.0):
        found[length].append(answer(core, _request(16, int(length))))
    return found


def _request(prompt: int, tokens: int) -> NewRequest:
    params = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    return NewRequest(request_id=f"{prompt}-{tokens}", prompt=[7 + at % 200 for at in range(prompt)], params=params)


def predicted_s(short: dict[str, float], short_tokens: int, tokens: int) -> float:
    """TTFT + TPOT x the tokens after the first, with both of a shorter answer."""
    tpot = (short["total_s"] - short["ttft_s"]) / (short_tokens - 1)
    return short["ttft_s"] + tpot * (tokens - 1)


def _readings(figures: Figures) -> Readings:
    ttft, steps = figures["ttft_s"], figures["step_s"]
    longest, shorter = list(ttft["473M"])[-1], list(ttft["473M"])[-4:][0]
    prompts, batches = ttft["473M"][shorter], list(steps["473M"])
    of_16, most = batches[-3:][0], batches[-2:][0]
    slower = {
        name: {rows: median_ratio(each[rows], each["1"]) for rows in (of_16, most)} for name, each in steps.items()
    }
    return {
        "batch-adds-no-latency": [ratio(name, each[of_16]) for name, each in slower.items()],
        "batch-trades-latency": [
            reading
            for name, each in slower.items()
            for reading in (
                Reading(f"{name}, throughput", int(most) / each[most]["median"]),
                ratio(f"{name}, time per token", each[most]),
            )
        ],
        "ttft-by-prompt": [ratio(name, median_ratio(each[longest], each[shorter])) for name, each in ttft.items()],
        "ttft-by-size": [
            Reading(
                "473M over amuse", statistics.median(ttft["473M"][longest]) / statistics.median(ttft["amuse"][longest])
            )
        ],
        "output-costs-more": [
            Reading(
                f"473M, {_sequences(rows)}", output_over_prompt(steps["473M"][rows], int(rows), prompts, int(shorter))
            )
            for rows in ("1", of_16)
        ],
        "tpot-constant": [
            ratio(name, median_ratio(*list(each.values())[::-1])) for name, each in figures["context_s"].items()
        ],
        "ten-times-longer": [ratio(name, _longer(each)) for name, each in figures["answers"].items()],
        "latency-formula": [ratio(name, _formula(each)) for name, each in figures["answers"].items()],
        "smaller-models-throughput": [ratio("88M over 473M", median_ratio(steps["473M"][of_16], steps["88M"][of_16]))],
    }


def _sequences(rows: str) -> str:
    return "1 sequence" if rows == "1" else f"{rows} sequences"


def output_over_prompt(steps: list[float], rows: int, prompts: list[float], length: int) -> float:
    """Median time per generated token, of steps of so many sequences, over that per token of a prompt of that length."""
    return statistics.median(steps) / rows / (statistics.median(prompts) / length)


def _longer(answers: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    short, _, long = ([run["total_s"] for run in runs] for runs in answers.values())
    return median_ratio(long, short)


def _formula(answers: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    (short, of_short), (middle, of_middle), _ = answers.items()
    predicted = [predicted_s(run, int(short), int(middle)) for run in of_short]
    return median_ratio([run["total_s"] for run in of_middle], predicted)


def _plots(figures: Figures) -> dict[str, Plot]:
    ttft = {name: _milliseconds(each) for name, each in figures["ttft_s"].items()}
    steps = {name: _milliseconds(each) for name, each in figures["step_s"].items()}
    rates = {name: [(rows, 1e3 * rows / took) for rows, took in line] for name, line in steps.items()}
    return {
        "ttft": _plot("Time to first token", "prompt tokens", "milliseconds", ttft),
        "tpot": _plot("Time per token", "sequences in the batch", "milliseconds", steps),
        "batch-throughput": _plot("Throughput of a batch", "sequences in the batch", "tokens/s", rates),
    }


def _milliseconds(times: dict[str, list[float]]) -> list[tuple[float, float]]:
    return [(float(at), 1e3 * statistics.median(each)) for at, each in times.items()]


def _plot(title: str, x_name: str, y_name: str, lines: dict[str, list[tuple[float, float]]]) -> Plot:
    xs, ys = ([point[at] for line in lines.values() for point in line] for at in (0, 1))
    plot = Plot(title, x_name, y_name, Axis.over(xs, is_log=True), Axis.over(ys, is_log=True))
    for colour, (name, line) in enumerate(lines.items(), 1):
        plot.line(line, colour, name, has_dots=True)
    return plot


LATENCY = Measurement(
    "latency",
    110.0,
    "One request at a time for TTFT; steps of 1 to 64 sequences at 128 tokens of context; answers of 100, 500 and 1,000 tokens "
    "to a prompt of 16. No speculation, no prefix cache, prompts in chunks of 256.",
    _measure,
    _readings,
    _plots,
)
