"""Instructions per token, counted by valgrind: a figure that no neighbour on the machine can change.

A process decodes with the amuse models under `valgrind --tool=callgrind`, on one thread; counts are taken between two
points of it, so that loading is not in them, and told apart: those of the compiled kernels, and those of the host, which
is everything else (scheduler, batch, sampling, and what the interpreter and torch do for them). Valgrind knows AVX2 and no more, so it is that variant of the kernels which is counted. What
was counted before is told beside it.

python -m benchmarks.instructions [--tokens 8]
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.result import FOLDER, publish

NAME = "instructions"
# Name: the amuse model, and how many sequences decode together.
LOADS = {"draft, 1 sequence": ("draft", 1), "small, 1 sequence": ("small", 1), "small, 8 sequences": ("small", 8)}
WHO = ("kernels", "host")
_KERNELS = "_native.so"
_OBJECT = re.compile(r"^(c?)ob=\((\d+)\)(?: (.*))?$")


def counted(lines: Iterable[str]) -> dict[str, int]:
    """Instructions by who executed them, from one of callgrind's files (its manual, "Callgrind Format Specification")."""
    names: dict[str, str] = {}
    kernels = total = 0
    current, is_call = "", False
    for line in lines:
        if named := _OBJECT.match(line):
            is_callee, number, name = named.groups()
            names.setdefault(number, name or "")
            if not is_callee:
                current = names[number]
        elif line.startswith("calls="):
            is_call = True  # what follows is the cost of the callee, which is counted where it executes
        elif line.startswith("summary:"):
            total = int(line.split()[1])
        elif line[:1] in "+-*0123456789" and line.strip():
            if not is_call and current.endswith(_KERNELS):
                kernels += int(line.split()[1])
            is_call = False
    return {"kernels": kernels, "host": total - kernels}


def table(loads: Mapping[str, Mapping[str, float]], before: Mapping[str, Mapping[str, float]]) -> Table:
    """Thousands of instructions per token, and the total as a multiple of what it was."""
    shown = Table("thousands per token", *WHO, "total", "over before")
    for name, by_who in loads.items():
        total = sum(by_who.values())
        was = sum(before.get(name, {}).values())
        cells = [f"{by_who[who] / 1e3:.0f}" for who in WHO]
        shown.add_row(name, *cells, f"{total / 1e3:.0f}", f"{total / was:.3f}" if was else "-")
    return shown


def measure(tokens: int) -> dict[str, dict[str, float]]:
    """Instructions per token of each load, by who executed them."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--tool=callgrind", f"--callgrind-out-file={folder}/out"]
        program = [sys.executable, "-m", "benchmarks.instructions", "--decode", str(tokens)]
        variables = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        subprocess.run(["valgrind", "--quiet", *options, *program], env=variables, check=True)  # noqa: S603, S607
        nothing, *counts = [
            counted((Path(folder) / f"out.{number}").read_text().splitlines()) for number in range(1, len(LOADS) + 2)
        ]
    return {
        name: {who: max(number - nothing[who], 0) / (tokens * sequences) for who, number in each.items()}
        for (name, (_, sequences)), each in zip(LOADS.items(), counts, strict=True)
    }


def decode(tokens: int) -> None:
    """Be the process that is counted: nothing first, which tells what counting itself takes, then each load."""
    from servery import amuse
    from servery.engine.config import EngineConfig
    from servery.engine.core import EngineCore
    from servery.engine.request import NewRequest, SamplingParams

    _valgrind("--zero")
    _valgrind("--dump")
    for size, sequences in LOADS.values():
        core = EngineCore(
            EngineConfig(
                model=amuse.path(size),
                threads=1,
                max_model_len=128,
                max_running=sequences,
                kv_memory_bytes=64 << 20,
                prefix_cache=False,
            )
        )
        params = SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=64)
        for row in range(sequences):
            core.add(NewRequest(request_id=str(row), prompt=[8 + row + at for at in range(32)], params=params), 0)
        while not core.scheduler.decoding or len(core.scheduler.decoding) < sequences:
            core.step()
        core.step()  # what is made once is made
        _valgrind("--zero")
        for _ in range(tokens):
            core.step()
        _valgrind("--dump")


def _valgrind(order: str) -> None:
    """Have the valgrind around this process forget its counts, or write them down."""
    subprocess.run(["callgrind_control", order, str(os.getpid())], capture_output=True, check=True)  # noqa: S603, S607


def _before() -> Mapping[str, Mapping[str, float]]:
    """What was counted last, if ever."""
    files = sorted(FOLDER.glob(f"{NAME}-*.json"))
    loads: Mapping[str, Mapping[str, float]] = json.loads(files[-1].read_text())["loads"] if files else {}
    return loads


def main() -> None:
    """Count, print, publish."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tokens", type=int, default=8)
    arguments.add_argument("--decode", type=int, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.decode is not None:
        decode(options.decode)
        return
    if shutil.which("valgrind") is None:
        Console(stderr=True).print("LEFT OUT: valgrind is not installed; on Debian: apt-get install valgrind")
        return
    before, loads = _before(), measure(options.tokens)
    Console(width=120).print(table(loads, before))
    figures: dict[str, Any] = {"settings": {"tokens": options.tokens}, "loads": loads}
    publish(NAME, figures)


if __name__ == "__main__":
    main()
