"""All that the engine is to reach on a GPU, in one run of less than 8 minutes, beside what that GPU reaches at all.

Copy bandwidth and bfloat16 products are measured first; every share is of these. Weights are random, of the real
shapes, and made on the device. Each part has a time of its own, and one that fails is a row that says so. The table is
printed last.

python -m benchmarks.gpu_suite [--only decode,host] [--dry] [--out FILE]

--dry runs the same on a CPU with toy sizes: that shows that it runs, and nothing else. Without a GPU nothing else can.
transformers is compared with if it is installed.
"""

import argparse
import dataclasses
import importlib
import json
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.attention_part import attention, rivals
from benchmarks.gpu.ceilings import ceilings, loading
from benchmarks.gpu.engine_parts import decode_8b, host, prefill_8b, workload
from benchmarks.gpu.exact_parts import exactness, invariance, syncs
from benchmarks.gpu.parts import DeviceLost, Machine, Part, Row, figures, line, run
from benchmarks.gpu.sum_part import sums
from benchmarks.result import publish

# Less than 8 minutes, whatever happens.
LIMIT_S = 465.0


def small(machine: Machine) -> Iterator[Row]:
    """See `small_part`, which needs Triton."""
    try:
        part = importlib.import_module("benchmarks.gpu.small_part")
    except ImportError as error:
        yield Row("small", f"not measured: {error}", 0.0)
        return
    yield from part.small(machine)


# With the seconds that each may have. Those with a target come first, and have less than the limit together; the last two
# get what is left.
PARTS = (
    Part("ceilings", 15, ceilings),
    Part("exactness", 45, exactness),
    Part("decode", 100, decode_8b),
    Part("host", 60, host),
    Part("prefill", 40, prefill_8b),
    Part("workload", 80, workload),
    Part("attention", 45, attention),
    Part("syncs", 26, syncs),
    Part("invariance", 20, invariance),
    Part("loading", 20, loading),
    Part("sums", 14, sums),
    Part("small", 40, small),
    Part("rivals", 60, rivals),
)

_DRY_S = 600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status is 0 if every part ran, whatever it measured; 1 if one failed; 2 if there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="on a CPU, with toy sizes")
    parser.add_argument("--only", default="", help="parts to run, with commas between them; else all")
    parser.add_argument("--out", type=Path, help="a file that gets all figures so far after each part, as JSON")
    parser.add_argument(
        "--after", type=Path, help="go on where another process lost the device, with what is in this file"
    )
    options = parser.parse_args(arguments)
    if not options.dry and not torch.cuda.is_available():
        sys.stderr.write("there is no GPU that torch finds; --dry runs the same on the CPU with toy sizes.\n")
        return 2
    wanted = set(filter(None, options.only.split(",")))
    unknown = wanted - {part.name for part in PARTS}
    if unknown:
        sys.stderr.write(
            f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(p.name for p in PARTS)}.\n"
        )
        return 2
    parts = [part for part in PARTS if not wanted or part.name in wanted | {"ceilings"}]
    if options.dry:  # how long these take says nothing
        parts = [dataclasses.replace(part, budget_s=_DRY_S) for part in parts]
    machine = Machine(torch.device("cpu") if options.dry else torch.device("cuda", 0), options.dry)
    name = "cpu" if options.dry else torch.cuda.get_device_name(0)
    table = _Table(name, options.after)
    limit_s = math.inf if options.dry else max(0.0, LIMIT_S - table.seconds)
    if not options.dry:
        table.tell_at_the_latest(limit_s + 10)
    keep = partial(_keep, options.out, name) if options.out else _nowhere
    try:
        run(parts, machine, rows=table.rows, limit_s=limit_s, keep=keep)
    except DeviceLost as lost:
        if lost.left:
            _go_on(lost.left, table, options.out)
    try:
        if not options.dry:
            publish("gpu-suite", {"device": name, "seconds": table.seconds, "rows": figures(table.rows)})
    finally:  # whatever becomes of the file
        status = table.tell()
    return status


class _Table:
    """All rows, told when all parts have run, or when time is up though the device does not answer."""

    def __init__(self, device_name: str, after: Path | None = None) -> None:
        """With what an earlier process found, in the file `after`."""
        before: dict[str, Any] = {"seconds": 0.0, "rows": []}
        if after is not None:
            before = json.loads(after.read_text())
        self.rows = [Row(**row) for row in before["rows"]]
        self._device_name = device_name
        self._started = time.perf_counter() - float(before["seconds"])

    @property
    def seconds(self) -> float:
        """Since the first process began."""
        return time.perf_counter() - self._started

    def leave(self, path: Path) -> None:
        """Write it down for the process that goes on."""
        path.write_text(json.dumps({"seconds": self.seconds, "rows": [dataclasses.asdict(row) for row in self.rows]}))

    def tell(self) -> int:
        """Print it; the exit status."""
        rows = list(self.rows)
        failed = sum(row.value is None for row in rows)
        missed = sum(row.verdict == "missed" for row in rows)
        print("\n".join(line(row) for row in rows))
        told = f"{len(rows)} rows in {self.seconds:.0f} s, {missed} targets missed, {failed} parts failed"
        print(f"{self._device_name}: {told}", flush=True)
        return 1 if failed else 0

    def tell_at_the_latest(self, seconds: float) -> None:
        """End the process with what there is: a part that waits for the device in C cannot be interrupted."""

        def end() -> None:
            self.rows.append(Row("suite", "stopped", None, note=f"a part did not come back within {seconds:.0f} s"))
            os._exit(self.tell())

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()


def _go_on(left: Sequence[Part], table: _Table, out: Path | None) -> None:
    """Become a process that runs the parts that are left: this one's device does nothing more, and frees no memory."""
    path = Path(tempfile.gettempdir()) / f"gpu-suite-{os.getpid()}.json"
    table.leave(path)
    arguments = ["--only", ",".join(part.name for part in left), "--after", str(path)]
    arguments += ["--out", str(out)] if out else []
    sys.stderr.write(f"the device is lost; {arguments[1]} in a new process\n")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks.gpu_suite", *arguments])  # noqa: S606 - ourselves


def _keep(path: Path, device_name: str, rows: Sequence[Row]) -> None:
    path.write_text(json.dumps({"device": device_name, "rows": figures(rows)}, indent=2) + "\n")


def _nowhere(rows: Sequence[Row]) -> None:
    """All is told at the end alone."""


if __name__ == "__main__":
    sys.exit(main())
