"""What fewer bits cost amuse, per stratum: ``python -m training.precision``. It takes about an hour on one core.

Every precision answers the shipped questions, the gate compares its answers with those in full precision, and its
distributions over the right answers are compared token by token. The answers go to ``training/runs/precision``, where
``--resume`` finds those of a run that was cut short; the figures go to ``training/precision.json``, from which
``python -m training.card --render`` takes the table of the model card.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servery import amuse
from servery.bench.machine import Provenance
from servery.evals import certificate, fidelity, gate, run
from servery.evals.certificate import Certificate
from servery.evals.compare import scores
from servery.evals.fidelity import FidelityOptions, FidelityReport
from servery.evals.results import Results
from servery.evals.run import RunOptions
from training.train import RUNS

FIGURES = Path(__file__).parent / "precision.json"
FOLDER = RUNS / "precision"
BASELINE = "bf16"
# What each is called in the table, and its settings of `EngineConfig`.
PRECISIONS: dict[str, dict[str, Any]] = {
    BASELINE: {},
    "int8": {"quantize": "int8"},
    "int4, rounded": {"quantize": "int4", "quantize_method": "round"},
    "int4, AWQ": {"quantize": "int4", "quantize_method": "awq"},
    "int8 KV": {"kv_dtype": "int8"},
    "fp8 KV": {"kv_dtype": "fp8"},
}


def measure(
    checkpoint: Path, tasks: Path, folder: Path, common: dict[str, Any], precisions: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """All figures; `common` settings are of all precisions, of which the first is what the others are compared with."""
    folder.mkdir(parents=True, exist_ok=True)
    engines = {name: common | settings for name, settings in precisions.items()}
    answers = {
        name: run.run(RunOptions(tasks=tasks, out=folder / f"{_slug(name)}.jsonl", offline=checkpoint, engine=engine))
        for name, engine in engines.items()
    }
    (baseline, baseline_engine), *others = engines.items()
    found = {baseline: _accuracy(answers[baseline])}
    for name, engine in others:
        verdict = folder / f"{_slug(name)}.gate.json"
        judged = certificate.issue(verdict, answers[baseline], answers[name], gate.MARGIN, gate.CONFIDENCE)
        sides = FidelityOptions(
            texts=tasks,
            baseline=checkpoint,
            candidate=checkpoint,
            baseline_engine=baseline_engine,
            candidate_engine=engine,
        )
        report = fidelity.measure(sides)
        found[baseline] |= _side(report, "baseline")
        found[name] = _accuracy(answers[name]) | _side(report, "candidate") | _verdict(judged)
    return found


def _slug(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "-")


def _accuracy(answers: Results) -> dict[str, Any]:
    return {"right": {row.stratum: [row.right, row.n + row.missing] for row in scores(answers)}}


def _verdict(judged: Certificate) -> dict[str, Any]:
    """The gate's: whether it passes, each stratum's lower bound of the relative difference, and why some fail."""
    return {
        "passes": judged.passed,
        "lower_bounds": {row.stratum: row.lower_bound for row in judged.strata},
        "reasons": {row.stratum: row.reason for row in judged.strata if row.reason is not None},
    }


def _side(report: FidelityReport, side: str) -> dict[str, Any]:
    """Memory, and per stratum the perplexity; of a candidate also divergence (nats per token) and agreement."""
    of_side = getattr(report, side)
    found = {
        "weight_bytes": of_side.weight_bytes,
        "kv_bytes_per_token": of_side.kv_bytes_per_token,
        "settings": of_side.settings,
        "perplexity": {row.stratum: getattr(row, f"{side}_perplexity") for row in report.strata},
    }
    if side == "candidate":
        for name in ("change", "divergence", "agreement"):
            found[name] = {row.stratum: dataclasses.asdict(getattr(row, name)) for row in report.strata}
    return found


def table(figures: Mapping[str, Any], titles: Mapping[str, str]) -> list[str]:
    """The lines of a Markdown table; a cell with a dagger is one in which the gate does not pass."""
    precisions = figures["precisions"]
    lines = ["| | " + " | ".join(precisions) + " |", "|---" * (len(precisions) + 1) + "|"]
    for stratum, title in titles.items():
        cells = [_percent(*one["right"][stratum]) + _mark(one, stratum) for one in precisions.values()]
        lines.append(_row(title, cells))
    lines.append(_row("**all questions**", [f"**{_percent(*one['right']['(all)'])}**" for one in precisions.values()]))
    for title, cell in _OTHERS.items():
        lines.append(_row(title, [cell(one) for one in precisions.values()]))
    return lines


def _row(title: str, cells: list[str]) -> str:
    return f"| {title} | " + " | ".join(cells) + " |"


def _percent(right: int, n: int) -> str:
    return f"{100 * right / n:.1f}"


def _mark(one: Mapping[str, Any], stratum: str) -> str:
    return " †" if stratum in one.get("reasons", {}) else ""


def _divergence(one: Mapping[str, Any]) -> str:
    return f"{one['divergence']['(all)']['value']:.1e}" if "divergence" in one else "0"


def _agreement(one: Mapping[str, Any]) -> str:
    return f"{100 * one['agreement']['(all)']['value']:.2f}" if "agreement" in one else "100"


def _gate(one: Mapping[str, Any]) -> str:
    return "-" if "passes" not in one else "pass" if one["passes"] else "fail"


def _lowest_bound(one: Mapping[str, Any]) -> str:
    """Of all strata; where the baseline gets nothing right there is no bound, so everything may be lost."""
    if "lower_bounds" not in one:
        return "-"
    return f"{100 * min(-1.0 if bound is None else bound for bound in one['lower_bounds'].values()):.1f}"


_OTHERS = {
    "perplexity of the right answers": lambda one: f"{one['perplexity']['(all)']:.4f}",
    "KL divergence, nats per token": _divergence,
    "same first choice, % of tokens": _agreement,
    "weights, bytes": lambda one: f"{one['weight_bytes']:,}",
    "KV, bytes per token": lambda one: f"{one['kv_bytes_per_token']:,}",
    "gate against bf16": _gate,
    "worst stratum: lower bound of the relative difference, %": _lowest_bound,
}


def main() -> None:
    """Measure and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=amuse.SIZES, default=amuse.DEFAULT)
    parser.add_argument("--resume", action="store_true", help="keep the answers that are there")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    if not arguments.resume:
        for path in FOLDER.glob("*.jsonl"):
            path.unlink()
    common = {"dtype": "bfloat16", "threads": arguments.threads}
    precisions = measure(amuse.path(arguments.size), amuse.TASKS, FOLDER, common, PRECISIONS)
    figures = {"size": arguments.size, "precisions": precisions, "provenance": dataclasses.asdict(Provenance.now())}
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"wrote {FIGURES}; `python -m training.card --render` puts it into the model card")


if __name__ == "__main__":
    main()
