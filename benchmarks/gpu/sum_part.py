"""What tensor parallelism adds to a step: sums over all GPUs of the machine, of one token and of many.

Each GPU has a process: `python -m benchmarks.gpu.sum_part RANK COUNT FILE DEVICE`.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.gpu.parts import Machine, Row
from servery.engine.device import resolve_device, use_device
from servery.engine.parallel.part import Ranks
from servery.engine.parallel.team import SumCost, Team
from servery.engine.ranks.meeting import meet, part_company
from servery.engine.ranks.meeting_place import MeetingPlace

HIDDEN_SIZE, LAYERS, TOKENS = 4096, 32, 512
MOST = 8


def sums(machine: Machine) -> Iterator[Row]:
    """An 8B model's sums in bfloat16: of a token, of all layers of its step, and the rate of those of 512 tokens."""
    count = min(MOST, torch.cuda.device_count()) if machine.device.type == "cuda" else 0
    if count < 2:
        yield Row("sums", "needs two GPUs: nothing is summed here", 0.0)
        return
    cost = measured(count, "cuda")
    nbytes = 2 * HIDDEN_SIZE * TOKENS
    # What each link carries of a ring: 2 (n - 1) / n of the values (NVIDIA, nccl-tests, doc/PERFORMANCE.md).
    moved = 2 * (count - 1) / count * nbytes
    yield Row("sums", f"{count} GPUs: of a token's hidden state", cost.one_s * 1e6, "us", is_cost=True)
    yield Row("sums", f"{count} GPUs: all of a token's step", (2 * LAYERS + 1) * cost.one_s * 1e3, "ms", is_cost=True)
    yield Row("sums", f"{count} GPUs: of {TOKENS} tokens, bus bandwidth", moved / cost.many_s / 1e9, "GB/s")


def measured(count: int, device: str) -> SumCost:
    """The cost of sums over `count` processes; raises `RuntimeError` with what they say if one fails."""
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "meeting")
        processes = [
            subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-m", "benchmarks.gpu.sum_part", str(rank), str(count), file, device],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(count)
        ]
        try:
            said = [process.communicate() for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
    failed = [errors for process, (_, errors) in zip(processes, said, strict=True) if process.returncode]
    if failed:
        raise RuntimeError(f"a process that was to sum failed: {failed[0].strip()[-500:]}")
    return SumCost(**json.loads(said[0][0]))


def main(rank: int, count: int, file: str, kind: str) -> None:
    """Meet the others, measure, and say what came of it."""
    device = resolve_device(kind, rank)
    use_device(device)
    team = Team(Ranks(count, 1, rank))
    meet(team, MeetingPlace(file=file), device)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    cost = team.measure(HIDDEN_SIZE, TOKENS, dtype, device)
    part_company()
    print(json.dumps(asdict(cost)))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
