"""What a measurement ran on and what was measured: without it a number cannot be compared with another."""

import contextlib
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from servery import __version__
from servery.engine.threads import usable_cores


@dataclass(frozen=True, slots=True)
class Provenance:
    """Machine, code, date and command of one run; `commit` ends in `+` when the tree had other changes."""

    date: str
    command: list[str]
    version: str
    commit: str | None
    machine: dict[str, str | int | float | None]

    @classmethod
    def now(cls) -> "Provenance":
        """Of this process."""
        return cls(
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            command=[_program(), *_without_keys(sys.argv[1:])],
            version=__version__,
            commit=_commit(),
            machine=_machine(),
        )


def cache_bytes() -> int | None:
    """Size of the last-level cache of the first core, where Linux tells it."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text[:-1]) * {"K": 1 << 10, "M": 1 << 20}.get(text[-1], 1))
    return max(sizes, default=None)


def _machine() -> dict[str, str | int | float | None]:
    return {
        "cpu": _cpu_model(),
        "architecture": platform.machine(),
        "cores": usable_cores(),
        "last_level_cache_bytes": cache_bytes(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average_1m": os.getloadavg()[0],  # before the run: what else was going on
    }


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    folder = Path(__file__).parent
    revision = _git(folder, "rev-parse", "--short=12", "HEAD")
    if revision is None or _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None  # no checkout, or that of whoever has installed this package inside it
    return revision + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def _git(folder: Path, *words: str) -> str | None:
    with contextlib.suppress(OSError):
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=False)  # noqa: S603, S607 - fixed words, the user's own git
        return done.stdout.strip() if done.returncode == 0 else None
    return None


def _program() -> str:
    name = Path(sys.argv[0]).name
    return "servery" if name == "__main__.py" else name


def _without_keys(words: list[str]) -> list[str]:
    """The command line without the values of `--api-key`, `--api-key-b`, `--judge-api-key` and their like."""
    kept: list[str] = []
    for word in words:
        name, separator, _ = word.partition("=")
        if kept and _is_key_option(kept[-1]):
            kept.append("***")
        else:
            kept.append(f"{name}=***" if separator and _is_key_option(name) else word)
    return kept


def _is_key_option(word: str) -> bool:
    return word.startswith("--") and "api-key" in word and "=" not in word and not word.endswith("-file")
