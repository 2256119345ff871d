"""A virtual environment for a suite, apart from the project's own, made once and kept under `build/conformance`."""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

from conformance.errors import CannotRun

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "conformance"
_CONSTRAINTS = ROOT / "constraints.txt"


def environment(
    name: str, requirements: Sequence[str], folder: Path = BUILD, *, is_pinned: bool = True, sees_ours: bool = False
) -> Path:
    """The Python of an environment that has `requirements`, by the project's pins where it has any and `is_pinned`.

    With `sees_ours` it also sees the packages that this Python has, as far as it has none of its own. Made anew when
    requirements, pins or Python differ from last time. Raises `CannotRun` when pip cannot.
    """
    place = folder / name
    python, stamp = place / "bin" / "python", place / ".installed"
    pins = ["--constraint", str(_CONSTRAINTS)] if is_pinned else []
    decisive = [sys.version, _CONSTRAINTS.read_text() if is_pinned else "", *requirements]
    wanted = hashlib.sha256("\n".join(decisive).encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    say(f"making {place} for {', '.join(requirements)}")
    shutil.rmtree(place, ignore_errors=True)
    venv.create(place, with_pip=True)
    if sees_ours:
        lower = next(place.glob("lib/python*/site-packages")) / "ours.pth"  # its lines come last on the path
        lower.write_text(sysconfig.get_path("purelib") + "\n")
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*install, *pins, *requirements], f"install what {name} needs")
    stamp.write_text(wanted)
    return python


def source(package: str, version: str, folder: Path = BUILD) -> Path:
    """The unpacked source distribution of a package, which has its tests; downloaded once.

    Raises `CannotRun` when there is none to be had.
    """
    place = folder / f"{package}-{version}"
    if (place / "tests").is_dir():
        return place
    folder.mkdir(parents=True, exist_ok=True)
    wanted = f"{package}=={version}"
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    run([*download, "--no-binary", package, "--dest", str(folder), wanted], f"fetch the sources of {wanted}")
    shutil.unpack_archive(folder / f"{package}-{version}.tar.gz", folder, filter="data")
    if not (place / "tests").is_dir():
        raise CannotRun(f"the sources of {wanted} have no tests; give a checkout of its repository: --checkout PATH")
    return place


def run(command: Sequence[str], what: str, told: Mapping[str, str] | None = None) -> None:
    """Run a command to its end, in the environment variables `told`, else in ours.

    Raises `CannotRun` with the last it said when it fails.
    """
    variables = os.environ if told is None else told
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(variables))  # noqa: S603
    if ended.returncode != 0:
        said = (ended.stderr.strip() or ended.stdout.strip())[-2000:]
        raise CannotRun(f"cannot {what}: {command[0]} ended with {ended.returncode}:\n{said}")


def say(text: str) -> None:
    """Tell how it goes; results go to stdout."""
    sys.stderr.write(f"conformance: {text}\n")
