"""The engine on a CPU beside llama.cpp, OpenVINO and transformers: same cores, same shapes, in turns, in one run.

Every engine runs in a process and an environment of its own, with a thread for each core it is given, and stays loaded;
they take turns, round by round. What one core computes is timed by the process's own CPU time, which others on the
machine lengthen only through caches and memory; two cores by the clock on the wall. Told are medians of the rounds, the
median of the ratios round by round, and the share of the memory bandwidth (MBU) of ours.

The 473M model has Qwen3's shape and random weights; it and the formats of the peers are made once, in the cache folder.
A peer that is not installed is left out, with the commands that install it below the cache folder.

python -m benchmarks.engine_cpu --cache DIRECTORY [--rows decode-1,prefill] [--peers llama.cpp,openvino,transformers]
  [--rounds 5] [--cores 0,1] [--json FILE]
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.engine_cpu import server_rows
from benchmarks.engine_cpu.contest import Contest
from benchmarks.engine_cpu.rows import Row, Verdict, chosen, groups, verdicts
from benchmarks.result import publish
from servery.bench import bandwidth
from servery.bench.machine import Provenance


def measure(rows: Sequence[Row], options: argparse.Namespace) -> dict[str, Any]:
    """Every row, group after group."""
    found: list[Verdict] = []
    rates: dict[str, dict[str, list[float]]] = {}
    versions: dict[str, str] = {}
    missing: dict[str, str] = {}
    best = _bandwidth(options.cores[0])
    for group in groups(rows):
        with Contest(group, options.cache, options.cores) as contest:
            for row in group:
                sys.stderr.write(f"== {row.key}\n")
                runs = contest.run(row, options.rounds)
                rates[row.key] = runs.rates
                found += verdicts(row, runs, best)
            versions |= contest.versions
            missing |= contest.missing
    return {"rows": found, "rates": rates, "versions": versions, "missing": missing, "read_bytes_per_s": best}


def _bandwidth(core: int) -> float:
    """What one core reads per second, at best."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        return bandwidth.measure(1).best_bytes_per_s
    finally:
        os.sched_setaffinity(0, allowed)


def table(rows: Sequence[Verdict]) -> Table:
    """A line for each row and family."""
    shown = Table("work", "against", "ours tok/s", "its tok/s", "ratio (rounds)", "target", "MBU", "")
    for row in rows:
        aim = "" if row.mbu_target is None else f" of {row.mbu_target:.2f}"
        shown.add_row(
            row.title,
            row.peer,
            f"{row.ours_per_s:.4g}",
            f"{row.peer_per_s:.4g}",
            f"{row.ratio:.2f} ({row.ratios[0]:.2f}-{row.ratios[1]:.2f})",
            f"{row.target:.2f}",
            "" if row.mbu is None else f"{row.mbu:.2f}{aim}",
            "reached" if row.is_reached else "NOT REACHED",
        )
    return shown


def _options() -> argparse.Namespace:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--cache", type=Path, required=True, help="where environments and models are, and are made")
    arguments.add_argument("--rows", type=_listed, help="beginnings of keys of rows, http, start-up; else all")
    arguments.add_argument("--peers", type=_listed, help="llama.cpp, openvino, transformers; else all")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--cores", type=lambda text: [int(each) for each in text.split(",")], default=[0, 1])
    arguments.add_argument("--json", type=Path, help="write the figures there too")
    options = arguments.parse_args()
    if options.peers and "transformers" in options.peers:
        options.peers.append("transformers batching")
    return options


def _listed(text: str) -> list[str]:
    return text.split(",")


def main() -> None:
    """Measure, print, publish."""
    options = _options()
    options.cache.mkdir(parents=True, exist_ok=True)
    wanted = None if options.rows is None else [key for key in options.rows if key not in server_rows.KEYS]
    rows = chosen(wanted, options.peers)
    figures = measure(rows, options)
    figures["rows"] += [
        verdict
        for key, measured in server_rows.KEYS.items()
        if options.rows is None or key in options.rows
        for verdict in measured(options.cache, options.cores, options.rounds)
    ]
    console = Console(width=140)
    console.print(table(figures["rows"]))
    provenance = dataclasses.asdict(Provenance.now())
    console.print(
        f"{provenance['date']}, {provenance['machine']['cpu']}, load {provenance['machine']['load_average_1m']:.1f}"
    )
    console.print(", ".join(f"{family} {version}" for family, version in figures["versions"].items()))
    for name, reason in figures["missing"].items():
        console.print(f"LEFT OUT: {name}: {reason}")
    settings = {"rounds": options.rounds, "cores": options.cores}
    path = publish("engine_cpu", {"settings": settings, **figures})
    if options.json is not None:
        options.json.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()), option=orjson.OPT_INDENT_2))


if __name__ == "__main__":
    main()
