"""What the system knows about a process that says nothing: does it compute, wait for a disk, or neither?"""

import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
# Fields of /proc/PID/stat by their numbers in proc(5), counted from the one after the process's name.
_STATE, _MAJOR_FAULTS, _USER_TICKS, _SYSTEM_TICKS = 3 - 3, 12 - 3, 14 - 3, 15 - 3


@dataclass(frozen=True, slots=True)
class Vitals:
    """CPU time of all threads, pages that had to be fetched from a disk, and whether it waits for a disk now."""

    cpu_s: float
    major_faults: int
    waits_for_disk: bool


def read_vitals(pid: int, proc: Path = _PROC) -> Vitals | None:
    """The vitals of a process; None where the system does not tell (not Linux), or when the process is gone."""
    try:
        text = (proc / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    ticks = int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])
    return Vitals(ticks / os.sysconf("SC_CLK_TCK"), int(fields[_MAJOR_FAULTS]), fields[_STATE] == "D")
