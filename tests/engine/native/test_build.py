"""The kernels are built by the package's own build, and the package does without them."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from servery.engine.native import build
from servery.engine.native.library import NativeContext, Unavailable, open_library, variants
from tests.conftest import lacking

ROOT = Path(__file__).resolve().parents[3]


def _setup(target: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "setup.py",
        "build_ext",
        "--build-lib",
        str(target),
        "--build-temp",
        str(target / "temp"),
    ]
    environment = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_without_a_compiler_the_package_builds_and_says_so(tmp_path):
    done = _setup(tmp_path, CXX="/nowhere/c++")
    assert done.returncode == 0, done.stderr
    said = "servery: installed without native kernels: CXX is /nowhere/c++, which was not found."
    assert said in done.stderr.splitlines()
    assert list(tmp_path.rglob("*.so")) == []


@pytest.mark.slow
def test_with_a_compiler_the_package_builds_what_can_be_opened(tmp_path):
    if not any(map(shutil.which, ("c++", "g++", "clang++"))):
        lacking("there is no C++ compiler (Debian: apt-get install g++)")
    hasty = tmp_path / "c++"  # the same without optimisation, in a quarter of the time
    hasty.write_text(f'#!/bin/sh\nexec {shlex.join(build.find_compiler())} "$@" -O0\n')
    hasty.chmod(0o755)
    done = _setup(tmp_path, CXX=str(hasty))
    assert done.returncode == 0, done.stderr
    (built,) = tmp_path.rglob("*.so")
    assert built.relative_to(tmp_path) == Path("servery/engine/native/_native.so")
    assert "portable" in variants(open_library(built))


def test_what_the_compiler_complains_of_is_told(tmp_path, monkeypatch):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'out of luck' >&2\nexit 3\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(build.BuildError, match=r"c\+\+ ended with status 3: out of luck$"):
        build.build(tmp_path / "target.so")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c++"]


def test_a_library_that_is_missing_says_how_to_get_it(tmp_path):
    with pytest.raises(Unavailable, match=r"^they are not built; with a C\+\+ compiler: python -m servery.engine.nat"):
        open_library(tmp_path / "none.so")


def test_a_file_that_is_no_library_says_what_to_do(tmp_path):
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(Unavailable, match=r"text.so cannot be loaded \(.*\); build it anew: python -m servery"):
        open_library(tmp_path / "text.so")


def test_a_library_of_other_sources_is_refused(tmp_path, monkeypatch):
    built = build.FOLDER / build.LIBRARY
    if not built.exists():
        lacking(f"the native kernels are missing: {built}")
    copy = shutil.copyfile(built, tmp_path / "copy.so")
    monkeypatch.setattr(build, "digest", lambda: "another")
    with pytest.raises(Unavailable, match=r"^copy.so was built from other sources; build it anew: "):
        open_library(copy)


def test_an_unknown_variant_names_those_there_are():
    built = build.FOLDER / build.LIBRARY
    if not built.exists():
        lacking(f"the native kernels are missing: {built}")
    with pytest.raises(Unavailable, match=r"no variant avx9 on this machine; there are .*portable$"):
        NativeContext(open_library(), "avx9", 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sanitizers_find_nothing_in_any_variant(tmp_path):
    """Addresses and undefined behaviour, while the tests of all kernels run in a process of their own."""
    compiler = build.find_compiler()
    where = subprocess.run([*compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    runtime = Path(where.stdout.strip())
    if not runtime.is_absolute():
        lacking("the compiler has no libasan.so (Debian: apt-get install libgcc-12-dev)")
    library = tmp_path / "sanitized.so"
    # Without optimisation, which would take longer than it saves.
    build.build(library, ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-O0"])
    environment = {
        **os.environ,
        "LD_PRELOAD": str(runtime),
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter keeps what it has
        "SERVERY_TEST_LIBRARY": str(library),
        "PYTHONMALLOC": "malloc",
    }
    tests = [path for path in Path(__file__).parent.glob("test_*.py") if path.name != Path(__file__).name]
    quick = ["-q", "-x", "-m", "not slow", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *quick, *map(str, tests)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "skipped" not in done.stdout
