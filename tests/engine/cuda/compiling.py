"""Launches that compile instead of running: for sm_90, without a GPU, by the tools that Triton brings.

In a process of its own, without the interpreter: what is decorated is one or the other for good.
"""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import __file__ as nvidia
from triton.runtime import driver
from triton.runtime.jit import JITFunction


@dataclass(frozen=True)
class Compiled:
    """One launch: what it is called, the shared memory that a program takes, its registers and what did not fit them."""

    name: str
    shared_bytes: int
    registers: int
    stack_bytes: int
    grid: tuple[int, ...]


class Hopper:
    """All that Triton asks about a device before it launches something there."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


@contextmanager
def compiled_launches() -> Iterator[list[Compiled]]:
    """The launches while it is open: arguments are told apart as at any launch, and compiled for."""
    found: list[Compiled] = []
    run = JITFunction.run

    def compile_it(self, *args, grid, warmup, **options) -> None:
        del warmup
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        found.append(Compiled(self.__name__, kernel.metadata.shared, *_usage(kernel.asm["cubin"]), tuple(grid)))

    driver.set_active(Hopper())  # for good: the process has no other
    with mock.patch.object(JITFunction, "run", compile_it):
        yield found


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers of a thread, and bytes of its stack, to which registers are spilled."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = Path(nvidia).parent / "bin" / "cuobjdump"
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    numbers = {key: int(value) for key, _, value in (word.partition(":") for word in text.split()) if value.isdigit()}
    return numbers["REG"], numbers["STACK"]
