"""Make .venv hold what a Makefile target needs, in seconds when nothing changed.

`python tools/environment.py engine` (or `engine,dev`). Only the standard library, and syntax that older Pythons
parse, so that a Python that is too old is told so in one line. A stamp per set of extras holds a digest of what
decides the environment's content; a half-made environment is made again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OLDEST = (3, 11)
ROOT = Path(__file__).resolve().parent.parent
# What the native kernels are built from, and by.
NATIVE = ("setup.py", *(f"src/servery/engine/native/{name}" for name in ("*.h", "*.cpp", "build.py")))


class Missing(Exception):
    """Something is missing that only the user can give; the message is one line."""


class Environment:
    """A virtual environment at `directory` for the project at `root`."""

    def __init__(self, root: Path, directory: Path) -> None:
        self.root = root
        self.directory = directory
        self.python = directory / "bin" / "python"
        # Present while pip writes: a process that was killed leaves it behind.
        self.unfinished = directory / ".unfinished"

    def ensure(self, extras: str) -> bool:
        """Install the package in place with `extras` ("engine", "engine,dev"); False if nothing had to be done."""
        wanted = self.digest(extras)
        stamp = self.directory / f".installed-{extras.replace(',', '-')}"
        if self.is_whole() and stamp.is_file() and stamp.read_text() == wanted:
            return False
        if not self.is_whole():
            self.create()
        self.install(extras)
        stamp.write_text(wanted)
        return True

    def digest(self, extras: str) -> str:
        """What decides the content: extras, this project's place, the files that name packages, what is compiled."""
        sha = hashlib.sha256(f"{extras}\n{self.root}\n{_compiler()}\n".encode())
        for pattern in ("pyproject.toml", "constraints.txt", *NATIVE):
            for path in sorted(self.root.glob(pattern)):
                sha.update(path.name.encode() + path.read_bytes())
        return sha.hexdigest()

    def is_whole(self) -> bool:
        """Whether an interpreter with pip is there and no install was cut off."""
        if self.unfinished.exists() or not self.python.exists():
            return False
        # Importing pip takes long; finding it does not.
        probe = "import sys, importlib.util as u; sys.exit(not (sys.version_info >= (3, 11) and u.find_spec('pip')))"
        return subprocess.run([str(self.python), "-c", probe], check=False, capture_output=True).returncode == 0

    def create(self) -> None:
        """Make the environment anew; raises `Missing` where Python cannot."""
        if sys.version_info < OLDEST:
            version = ".".join(map(str, sys.version_info[:3]))
            raise Missing(
                f"Python 3.11 or newer is needed and {sys.executable} is {version}: make PYTHON=python3.12 ..."
            )
        try:
            import ensurepip  # noqa: F401  (Debian ships Python without it)
            import venv
        except ImportError:
            package = f"python3.{sys.version_info.minor}-venv"
            raise Missing(
                f"{sys.executable} has no venv module: install it (Debian, Ubuntu: apt-get install {package})."
            ) from None
        print(f"Making {self.directory.name} with Python {sys.version.split()[0]} ...", flush=True)
        venv.create(self.directory, clear=True, with_pip=True)

    def install(self, extras: str) -> None:
        """Run pip; raises `Missing` with its exit status if it fails."""
        print(f"Installing servery[{extras}] (the first time downloads PyTorch: minutes) ...", flush=True)
        self.unfinished.touch()
        command = [str(self.python), "-m", "pip", "install", "--disable-pip-version-check", "--no-compile"]
        command += ["--constraint", "constraints.txt", "--editable", f".[{extras}]"]
        status = run_pip(command, self.root)
        # pip has ended by itself, and rolls back what it could not finish.
        self.unfinished.unlink()
        if status:
            raise Missing(
                f"pip ended with status {status}, see above; with a network and disk space, run the same again."
            )


def run_pip(command: list[str], root: Path) -> int:
    """Run pip, show which large files it downloads and its complaints, and return its exit status.

    It compiles nothing: Python does that on import, for the few files that are imported.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as pip:
        for line in pip.stdout or ():
            if line.lstrip().startswith("Downloading") and re.search(r"\(\d+(\.\d+)? [MG]B\)", line):
                print(line.rstrip(), flush=True)
    return pip.returncode


def _compiler() -> str:
    """The C++ compiler that would be used: the kernels are built once there is one."""
    return os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), "none")


@contextmanager
def only_one(directory: Path) -> Iterator[None]:
    """Hold a lock beside `directory`, so that two targets in two terminals do not install at once."""
    with (directory.parent / f"{directory.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another make in this directory ...", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(extras: str) -> None:
    """Ensure the project's own .venv."""
    directory = ROOT / ".venv"
    try:
        with only_one(directory):
            Environment(ROOT, directory).ensure(extras)
    except Missing as error:
        sys.exit(f"servery: {error}")
    except KeyboardInterrupt:
        sys.exit("servery: interrupted; the same command starts over.")


if __name__ == "__main__":
    main(sys.argv[1])
