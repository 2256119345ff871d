"""Building the native kernels: a C++ compiler and nothing else.

`python -m servery.engine.native.build` builds them beside this file; the package's own build does the same. Standard
library only, since the build has nothing else.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
LIBRARY = "_native.so"
# -ffp-contract: products and sums become one operation where the CPU has it, in this variant's code everywhere alike.
FLAGS = "-std=c++17 -O3 -g1 -fPIC -fvisibility=hidden -ffp-contract=fast -fno-math-errno -fno-trapping-math -pthread"
_AVX2 = "-mavx2 -mfma -mf16c"
_AVX512 = f"{_AVX2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mprefer-vector-width=512"
# What all variants share.
_COMMON = ("attention", "interface", "loop", "pool", "sampling")
# Each compiles `variant.cpp` with its own flags; which of them runs is decided when the library is opened.
X86_VARIANTS = {"avx2": _AVX2, "avx512": _AVX512, "avx512bf16": f"{_AVX512} -mavx512bf16"}


class BuildError(Exception):
    """The kernels cannot be built here; the message says why."""


def digest() -> str:
    """What the sources and their flags are; a library that says another was built from others."""
    sha = hashlib.sha256(f"{FLAGS}{X86_VARIANTS}".encode())
    for path in sources():
        sha.update(path.name.encode() + b"\0" + path.read_bytes())
    return sha.hexdigest()[:16]


def sources() -> list[Path]:
    """All files of C++, in a fixed order."""
    return sorted(path for path in FOLDER.iterdir() if path.suffix in {".h", ".cpp"})


def find_compiler() -> list[str]:
    """The command of the C++ compiler: CXX, else the first of those with a usual name. Raises `BuildError`."""
    named = shlex.split(os.environ.get("CXX", ""))
    for command in [named] if named else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(command[0]):
            return command
    what = f"CXX is {named[0]}, which was not found" if named else "there is no C++ compiler (c++, g++ or clang++)"
    raise BuildError(what)


def build(target: Path, flags: Sequence[str] = ()) -> None:
    """Compile the kernels with additional `flags` into the library `target`. Raises `BuildError`."""
    compiler = [*find_compiler(), *shlex.split(FLAGS), *flags]
    with tempfile.TemporaryDirectory() as folder:
        units = [(f"{name}.cpp", [f'-DSERVERY_DIGEST="{digest()}"'], f"{name}.o") for name in _COMMON]
        for name, special in _variants().items():
            units.append(("variant.cpp", [f"-DVARIANT={name}", *shlex.split(special)], f"{name}.o"))
        commands = [
            [*compiler, *special, "-c", str(FOLDER / unit), "-o", f"{folder}/{output}"]
            for unit, special, output in units
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        built = Path(folder) / LIBRARY
        _run([*compiler, "-shared", *(f"{folder}/{output}" for _, _, output in units), "-o", str(built)])
        _replace(built, target)


def _variants() -> dict[str, str]:
    is_x86 = platform.machine() in {"x86_64", "AMD64"}
    return {"portable": "", **(X86_VARIANTS if is_x86 else {})}


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 the user's own compiler
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise BuildError(f"{command[0]} ended with status {done.returncode}: {said[0] if said else 'it said nothing'}")


def _replace(built: Path, target: Path) -> None:
    """In one step, and under a new file, so that a process that has the old one open keeps it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_suffix(f".{os.getpid()}")
    shutil.copyfile(built, beside)
    beside.replace(target)


def main() -> int:
    """Build beside this file; the exit status is 0, or 1 with a line that says why not."""
    try:
        build(FOLDER / LIBRARY)
    except (BuildError, OSError) as error:
        sys.stderr.write(f"servery: the native kernels were not built: {error}.\n")
        return 1
    sys.stdout.write(f"built {FOLDER / LIBRARY}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
