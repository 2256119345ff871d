"""Launches that compile instead of running: for sm_90, without a GPU, by the tools that Triton brings.

In a process of its own, without the interpreter: what is decorated is one or the other for good.
"""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import __file__ as nvidia
from triton.runtime.jit import JITFunction

HOPPER = GPUTarget("cuda", 90, 32)
TYPES = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bool: "u1",
    torch.float8_e4m3fn: "fp8e4nv",
}


@dataclass(frozen=True)
class Compiled:
    """One launch: what it is called, the shared memory that a program takes, its registers and what did not fit them."""

    name: str
    shared_bytes: int
    registers: int
    stack_bytes: int
    grid: tuple[int, ...]


@contextmanager
def compiled_launches() -> Iterator[list[Compiled]]:
    """The launches while it is open."""
    found: list[Compiled] = []

    def compile_it(self, *args, grid, warmup, **options):
        del warmup
        names = [parameter.name for parameter in self.params]
        given = {
            **dict(zip(names, args, strict=False)),
            **{name: options.pop(name) for name in names if name in options},
        }
        signature, constants, attributes = {}, {}, {}
        for index, parameter in enumerate(self.params):
            value = given.get(parameter.name, parameter.default)
            if parameter.is_constexpr or is_dataclass(value) or value is None:
                signature[parameter.name], constants[parameter.name] = "constexpr", value
                continue
            signature[parameter.name] = _type(value)
            if isinstance(value, torch.Tensor) or (
                isinstance(value, int) and not parameter.do_not_specialize and value % 16 == 0
            ):
                attributes[index,] = [["tt.divisibility", 16]]
            if isinstance(value, tuple):
                attributes |= {(index, at): [["tt.divisibility", 16]] for at, v in enumerate(value) if v % 16 == 0}
        source = triton.compiler.ASTSource(self, signature, constants, attributes)
        kernel = triton.compile(source, target=HOPPER, options=options)
        found.append(Compiled(self.__name__, kernel.metadata.shared, *_usage(kernel.asm["cubin"]), tuple(grid)))

    with mock.patch.object(JITFunction, "run", compile_it):
        yield found


def _type(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return f"*{TYPES[value.dtype]}"
    if isinstance(value, tuple):
        return type(value)(*(_type(each) for each in value))
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _usage(cubin: bytes) -> tuple[int, int]:
    """Registers of a thread, and bytes of its stack, to which registers are spilled."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = Path(nvidia).parent / "bin" / "cuobjdump"
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    numbers = {key: int(value) for key, _, value in (word.partition(":") for word in text.split()) if value.isdigit()}
    return numbers["REG"], numbers["STACK"]
