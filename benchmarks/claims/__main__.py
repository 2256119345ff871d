"""Measure what the texts claim, and render docs/claims.md from it: `make claims`.

Without options everything is measured, a dated JSON is written to benchmarks/results, and the page with its plots is
rendered from it. --render renders from the newest such file, or the one that is named, and measures nothing. --only
measures some, prints what they say and writes nothing. With --runs FILE what was measured is kept there, and the next
call goes on. --tiny makes everything as small as can be, to see that it works: its figures mean nothing.

python -m benchmarks.claims [--only batching,prefix] [--render [FILE]] [--docs DIRECTORY] [--models DIRECTORY] [--runs FILE]
"""

import argparse
import gc
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

import orjson
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import result as results
from benchmarks.claims.claim import Topic, stated
from benchmarks.claims.figure import shown
from benchmarks.claims.measurement import Measurement, Unmeasurable
from benchmarks.claims.measurements import MEASUREMENTS
from benchmarks.claims.page import read, write
from benchmarks.claims.stage import Stage, pinned_to_last_core
from benchmarks.served import end_servers_on_sigterm

DOCS = Path(__file__).parents[2] / "docs"
NEWEST = Path()


def measure(stage: Stage, chosen: Mapping[str, Measurement], kept: Path | None = None) -> dict[str, Any]:
    """The figures of each measurement and how long it took; what `kept` has is not measured again."""
    found: dict[str, Any] = {"runs": {}, "took_s": {}, "left_out": {}}
    if kept is not None and kept.exists():
        found |= orjson.loads(kept.read_bytes()) | {"left_out": {}}
    torch.set_num_threads(1)
    for key, measurement in chosen.items():
        if key in found["runs"]:
            continue
        sys.stderr.write(f"{key}: about {measurement.budget_s:.0f} s\n")
        began = perf_counter()
        try:
            found["runs"][key] = _figures(stage, measurement)
        except Unmeasurable as reason:
            found["left_out"][key] = str(reason)
            sys.stderr.write(f"{key}: {reason}\n")
            continue
        gc.collect()  # models that are in circles
        found["took_s"][key] = perf_counter() - began
        sys.stderr.write(f"{key}: took {found['took_s'][key]:.0f} s\n")
        if kept is not None:
            kept.write_bytes(orjson.dumps(found))
    return found


def _figures(stage: Stage, measurement: Measurement) -> dict[str, Any]:
    with ExitStack() as stack:
        if not measurement.is_served:
            stack.enter_context(pinned_to_last_core())
        return measurement.measure(stage)


def table(topics: Sequence[Topic], measurements: Mapping[str, Measurement], result: Mapping[str, Any]) -> Table:
    """What was measured, claim by claim."""
    readings = read(measurements, result)
    made = Table("claim", "quoted", "ours", "verdict")
    for topic in topics:
        for claim in topic.claims:
            if claim.measured in measurements and claim.measured in result["runs"]:
                found = readings.get(claim.key, [])
                ours = "\n".join(shown(reading, claim.unit).replace("**", "") for reading in found)
                made.add_row(claim.says, claim.quoted, ours, claim.verdict(found).value)
    return made


def newest() -> Path:
    """The last result of all measurements. Raises `SystemExit` where there is none."""
    files = sorted(results.FOLDER.glob("claims-*.json"))
    if not files:
        raise SystemExit(f"{results.FOLDER} has no claims-DATE.json; measure with: make claims")
    return files[-1]


def main() -> None:
    """Measure, print, publish, render."""
    options = _parser().parse_args()
    topics = stated()
    if options.render is not None:
        found = orjson.loads((newest() if options.render == NEWEST else options.render).read_bytes())
        sys.stdout.write(f"{write(options.docs, topics, MEASUREMENTS, found)}\n")
        return
    strange = [key for key in options.only if key not in MEASUREMENTS]
    if strange:
        raise SystemExit(f"there is no measurement {', '.join(strange)}; there are {', '.join(MEASUREMENTS)}")
    end_servers_on_sigterm()
    chosen = {key: each for key, each in MEASUREMENTS.items() if not options.only or key in options.only}
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(options.models or Path(folder), is_tiny=options.tiny)
        found = measure(stage, chosen, options.runs)
    Console(width=160).print(table(topics, chosen, found))
    if not options.only:
        path = results.publish("claims", found)
        sys.stdout.write(f"{write(options.docs, topics, MEASUREMENTS, orjson.loads(path.read_bytes()))}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], metavar="NAME,NAME,...")
    parser.add_argument("--render", type=Path, nargs="?", const=NEWEST, metavar="FILE")
    parser.add_argument("--docs", type=Path, default=DOCS, metavar="DIRECTORY", help="where the page is written")
    parser.add_argument("--models", type=Path, metavar="DIRECTORY", help="keep the models that are made there (1.5 GB)")
    parser.add_argument("--runs", type=Path, metavar="FILE")
    parser.add_argument("--tiny", action="store_true")
    return parser


if __name__ == "__main__":
    main()
