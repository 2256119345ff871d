"""What all tests share: what to do when a part that the package index does not have is missing."""

import contextlib
import gc
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tools.programs import found, wanted

# The GPU's kernels are run by Triton's interpreter; it has to be told before anything imports Triton.
os.environ.setdefault("TRITON_INTERPRET", "1")

# Servers and engines that tests start are to find their modules compiled, whatever this machine keeps otherwise: there are
# hundreds of starts.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# The same examples on every machine, however slow it is; `pytest --hypothesis-profile=default` looks for new ones.
settings.register_profile(
    "steady",
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("steady")

PACKAGES = wanted((Path(__file__).parent / "programs.txt").read_text())


def lacking(what: str) -> None:
    """Skip the running test because `what` is missing, loudly; with CI=true fail it instead."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}; with CI=true nothing may be missing", pytrace=False)
    pytest.skip(what)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without a search for garbage among ten thousand tests, which takes a third of the time, then or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: none is begun when all others are done, and has one process wait for another."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Every test begins with the same state of chance, whichever ran before it in the same process."""
    random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)


@pytest.fixture(scope="session")
def require_program() -> Callable[[str], str]:
    """A function from a program's name to its path, for programs listed in tests/programs.txt."""

    def require(name: str) -> str:
        path = found(name)
        if path is None:
            lacking(f"{name} is missing (Debian: apt-get install {PACKAGES[name]})")
        return str(path)

    return require


@pytest.fixture(scope="session")
def redis_url(require_program: Callable[[str], str]) -> Iterator[str]:
    """The address of a real Redis that is empty and keeps nothing."""
    with (
        tempfile.TemporaryDirectory(prefix="redis-") as folder,
        redis_server(require_program("redis-server"), Path(folder) / "redis.sock") as (url, _),
    ):
        yield url


@contextlib.contextmanager
def redis_server(program: str, socket_path: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """A Redis at a socket of its own, with its process."""
    arguments = ["--port", "0", "--unixsocket", str(socket_path), "--save", "", "--appendonly", "no"]
    with subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL, cwd=socket_path.parent) as process:
        try:
            while not socket_path.exists():
                assert process.poll() is None, "redis-server ended by itself"
                select.select([], [], [], 0.01)
            yield f"unix://{socket_path}", process
        finally:
            process.kill()


@pytest.fixture(autouse=True)
def ctrl_c_is_left_as_it_was() -> Iterator[None]:
    """Ctrl-C works in every test, also where a shell has tests run in the background, which turns it off.

    A test that leaves a handler of its own behind would break another one, far from here.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    left = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert left is signal.default_int_handler
