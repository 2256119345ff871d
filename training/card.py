"""Measure, and write the model card: ``python -m training.card``. It takes some minutes.

``training/results.json`` keeps the figures with date and machine; ``--render`` only writes the page again. The figures
of fewer bits are those of ``training.precision``.
"""

import argparse
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from servery import amuse
from training import agreement, evaluate, loops, precision
from training.export import read
from training.model import SHAPES
from training.tokenizer import load
from training.train import RUNS

RESULTS = Path(__file__).parent / "results.json"
_TEXT = Path(__file__).parent / "card.md"
_TITLES = {
    "arithmetic": "arithmetic: sums, columns, products, quotients",
    "reasoning": "reasoning in written steps",
    "format": "exact formatting: JSON to a schema, lists",
    "context": "extraction from a text, or “not in the context”",
    "lookup": "facts and unit conversion",
    "support": "support questions in unseen wordings",
    "long": "support facts inside a long system prompt",
    "smalltalk": "small talk, memory of a name, refusals",
    "freetext": "explanations, stories, mails, counting",
    "tools": "tool calls",
}


def measure(count: int) -> dict[str, Any]:
    """All figures of the card for the sizes that are here."""
    sizes = [size for size in ("draft", "small") if size in amuse.available()]
    exact = {size: evaluate.report(amuse.path(size), count) for size in sizes}
    runaways = {}
    for size in sizes:
        found = loops.runaways(amuse.path(size), 1000, 1024)
        runaways[size] = {"limit": len(found), "loops": sum(loops.repeats(answer.tokens) for _, answer in found)}
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()}-vCPU {_processor()}",
        "count": count,
        "exact": exact,
        "runaways": runaways,
        "agreement": agreement.report(30),
        "training": {size: _training(size) for size in sizes},
    }


def _training(size: str) -> dict[str, int]:
    """Steps and tokens of the run on this machine, or nothing when the weights came from elsewhere."""
    log = RUNS / size / "log.jsonl"
    last = json.loads(log.read_text().splitlines()[-1]) if log.exists() else {}
    return {name: last[name] for name in ("step", "tokens") if name in last}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")


def _size_table() -> list[str]:
    lines = ["| size | parameters | weights | width x layers | heads (key/value) |", "|---|---|---|---|---|"]
    for size in amuse.available():
        shape = SHAPES[size]
        megabytes = (amuse.path(size) / "model.safetensors").stat().st_size / 1e6
        parameters = sum(p.numel() for p in read(amuse.path(size)).parameters())
        heads = f"{shape.heads} ({shape.kv_heads})"
        lines.append(f"| {size} | {parameters:,} | {megabytes:.1f} MB | {shape.width} x {shape.layers} | {heads} |")
    return lines


def _score_table(exact: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    sizes = list(exact)
    lines = ["| stratum | " + " | ".join(sizes) + " | kinds (" + sizes[-1] + ") |", "|---" * (len(sizes) + 2) + "|"]
    means: dict[str, list[float]] = {size: [] for size in sizes}
    for stratum, title in _TITLES.items():
        for size in sizes:
            means[size].append(evaluate.mean(exact[size][stratum]))
        cells = " | ".join(f"{means[size][-1]:.1f}" for size in sizes)
        kinds = ", ".join(f"{name} {value:.0f}" for name, value in exact[sizes[-1]][stratum].items())
        lines.append(f"| {title} | {cells} | {kinds} |")
    return [*lines, "| **mean** | " + " | ".join(f"**{sum(m) / len(m):.1f}**" for m in means.values()) + " | |"]


def _precision_parts(figures: dict[str, Any]) -> dict[str, str]:
    provenance, precisions = figures["provenance"], figures["precisions"]
    names = [name for name, one in precisions.items() if one.get("reasons")]
    failed = "; ".join(f"{name}: {', '.join(precisions[name]['reasons'])}" for name in names)
    gate = "[gate](../../../docs/evals.md#the-gate)"
    verdict = f"All pass the {gate}: in every stratum a relative loss of 5 % is excluded with 95 % confidence."
    marked = (
        f"† The {gate} does not pass there: a relative loss of 5 % is not excluded with 95 % confidence\n({failed})."
    )
    shape = SHAPES[figures["size"]]
    embedding_bytes = 2 * shape.width * load(amuse.path(figures["size"]) / "tokenizer.json").get_vocab_size()
    return {
        "precision": "\n".join(precision.table(figures, _TITLES)),
        "precision_tasks": f"{precisions[precision.BASELINE]['right']['(all)'][1]:,}",
        "precision_gate": marked if names else verdict,
        "precision_embedding": f"{embedding_bytes / precisions[precision.BASELINE]['weight_bytes']:.0%}",
        "precision_date": provenance["date"][:10],
        "precision_machine": f"one core, {provenance['machine']['cpu']}",
    }


def render(results: dict[str, Any], figures: dict[str, Any]) -> str:
    """The page: the written text with the measured tables, and those of `training.precision`, in their places."""
    agreed = results["agreement"]
    spread = {name: value for name, value in agreed.items() if name != "all"}
    low, high = min(spread, key=lambda n: spread[n]), max(spread, key=lambda n: spread[n])
    runs = "; ".join(
        f"{size}: {found['limit']} of 1,000 answers reached 1,024 tokens, {found['loops']} of them by repeating"
        for size, found in results["runaways"].items()
    )
    parts = {
        "sizes": "\n".join(_size_table()),
        "scores": "\n".join(_score_table(results["exact"])),
        "count": str(results["count"]),
        "date": results["date"],
        "machine": results["machine"],
        "agreement": f"{agreed['all']} % of all tokens ({low} {spread[low]} %, {high} {spread[high]} %)",
        "runaways": runs,
        "training": "; ".join(
            f"{size}: {run['step']:,} steps, {run['tokens'] / 1e6:.1f}M tokens"
            for size, run in results["training"].items()
            if run
        ),
    }
    page = _TEXT.read_text()
    for name, text in (parts | _precision_parts(figures)).items():
        page = page.replace("{{" + name + "}}", text)
    return page


def main() -> None:
    """Measure unless told to render only, then write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="answers per kind")
    parser.add_argument("--render", action="store_true", help="do not measure again")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if not arguments.render:
        RESULTS.write_text(json.dumps(measure(arguments.count), indent=2) + "\n")
    (amuse.HOME / "README.md").write_text(
        render(json.loads(RESULTS.read_text()), json.loads(precision.FIGURES.read_text()))
    )
    print(f"wrote {amuse.HOME / 'README.md'}")


if __name__ == "__main__":
    main()
