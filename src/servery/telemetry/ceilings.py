"""What a machine can do at most, and what share of it an engine's steps came to: MBU and MFU.

MBU = bytes that the steps had to read at least / their time / the memory bandwidth; MFU = the operations of their products /
their time / the rate at which the machine multiplies matrices of the engine's type (Databricks, "LLM Inference Performance
Engineering", 2023; Chowdhery et al., "PaLM", 2022, appendix B). The ceilings are measured, not a data sheet's:
`servery bench roofline --json FILE` writes them, and a file may be given to a server.
"""

import functools
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from servery.engine.stats import EngineInfo, EngineStats


class Ceilings(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes read per second, and operations per second by type of computation."""

    read_bytes_per_s: float
    operations_per_s: dict[str, float] = {}


class _Bandwidth(msgspec.Struct, frozen=True):
    best_bytes_per_s: float


class _Machine(msgspec.Struct, frozen=True):
    bandwidth: _Bandwidth
    operations_per_s: dict[str, float] = {}


class _Roofline(msgspec.Struct, frozen=True):
    """A file of `servery bench roofline`, of which only this is read."""

    machine: _Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Utilization:
    """What an engine's last steps came to and could have; None of what is not known."""

    bytes_per_s: float | None
    operations_per_s: float | None
    peak_bytes_per_s: float | None
    peak_operations_per_s: float | None

    @property
    def mbu(self) -> float | None:
        """The share of the bandwidth."""
        return _share(self.bytes_per_s, self.peak_bytes_per_s)

    @property
    def mfu(self) -> float | None:
        """The share of the operations."""
        return _share(self.operations_per_s, self.peak_operations_per_s)


def utilization(stats: EngineStats, info: EngineInfo, ceilings: Ceilings | None) -> Utilization:
    """What the last steps came to, against the ceilings of the type that the engine computes in."""
    return Utilization(
        bytes_per_s=stats.bytes_per_s,
        operations_per_s=stats.operations_per_s,
        peak_bytes_per_s=None if ceilings is None else ceilings.read_bytes_per_s,
        peak_operations_per_s=None if ceilings is None else ceilings.operations_per_s.get(info.dtype),
    )


def read_ceilings(path: Path) -> Ceilings:
    """From a file that `servery bench roofline --json` wrote, or one like it; raises `ValueError` with what is wrong."""
    try:
        machine = msgspec.json.decode(path.read_bytes(), type=_Roofline).machine
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except msgspec.DecodeError as error:
        raise ValueError(
            f"{path} has no ceilings: {error}. `servery bench roofline --json FILE` writes such a file."
        ) from error
    rates = {"bandwidth.best_bytes_per_s": machine.bandwidth.best_bytes_per_s, **machine.operations_per_s}
    for name, rate in rates.items():
        if not 0 < rate < float("inf"):
            raise ValueError(f"{path}: {name} is {rate}; it must be greater than 0.")
    return Ceilings(
        read_bytes_per_s=machine.bandwidth.best_bytes_per_s, operations_per_s=dict(machine.operations_per_s)
    )


def kept_at(device: str, threads: int, environment: Mapping[str, str] = os.environ) -> Path:
    """Where the ceilings of this machine are kept once they were measured, for a device and so many threads."""
    cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.sha256(f"{_processor()}|{device}|{threads}".encode()).hexdigest()[:16]
    return cache / "servery" / f"ceilings-{name}.json"


@functools.cache
def _processor() -> str:
    """Which machine this is, as far as its speed goes."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return f"{sorted(names)}|{os.cpu_count()}|{os.uname().machine}"


def _share(achieved: float | None, peak: float | None) -> float | None:
    return None if achieved is None or peak is None else achieved / peak
