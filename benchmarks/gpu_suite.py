"""All that the engine is to reach on a GPU, in one run of less than 8 minutes, beside what that GPU reaches at all.

Copy bandwidth and bfloat16 products are measured first; every share is of these. Weights are random, of the real
shapes, and made on the device. Each part has a time of its own, and one that fails is a row that says so. The table is
printed last.

python -m benchmarks.gpu_suite [--only decode,host] [--dry]

--dry runs the same on a CPU with toy sizes: that shows that it runs, and nothing else. Without a GPU nothing else can.
transformers is compared with if it is installed.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence

import torch

from benchmarks.gpu.attention_part import attention
from benchmarks.gpu.ceilings import ceilings, loading
from benchmarks.gpu.engine_parts import decode_8b, host, prefill_8b, workload
from benchmarks.gpu.exact_parts import exactness, invariance, syncs
from benchmarks.gpu.parts import Machine, Part, figures, line, run
from benchmarks.gpu.sum_part import sums
from benchmarks.result import publish

# Seconds; together less than 8 minutes.
PARTS = (
    Part("ceilings", 15, ceilings),
    Part("exactness", 50, exactness),
    Part("syncs", 35, syncs),
    Part("decode", 100, decode_8b),
    Part("host", 60, host),
    Part("prefill", 40, prefill_8b),
    Part("workload", 80, workload),
    Part("attention", 50, attention),
    Part("invariance", 20, invariance),
    Part("loading", 20, loading),
    Part("sums", 14, sums),
)

_DRY_S = 600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status is 0 if every part ran, whatever it measured; 1 if one failed; 2 if there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="on a CPU, with toy sizes")
    parser.add_argument("--only", default="", help="parts to run, with commas between them; else all")
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
    started = time.perf_counter()
    rows = run(parts, machine)
    spent = time.perf_counter() - started
    name = "cpu" if options.dry else torch.cuda.get_device_name(0)
    if not options.dry:
        publish("gpu-suite", {"device": name, "seconds": spent, "rows": figures(rows)})
    failed = sum(row.value is None for row in rows)
    missed = sum(row.verdict == "missed" for row in rows)
    print("\n".join(line(row) for row in rows))
    print(f"{name}: {len(rows)} rows in {spent:.0f} s, {missed} targets missed, {failed} parts failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
