"""How much memory a new process may take: what the system has, and what the control groups around us leave."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class _Version:
    """Where a version of the kernel's control groups keeps its figures. `mount` is below the root of all."""

    controller: str
    mount: str
    limits: tuple[str, ...]
    used: str
    idle_files: str


# Version 2 lies at the root, or beside version 1 where both are in use; a limit is bytes, or "max" for none.
_VERSIONS = (
    _Version("", "", ("memory.max", "memory.high"), "memory.current", "inactive_file"),
    _Version("", "unified", ("memory.max", "memory.high"), "memory.current", "inactive_file"),
    _Version("memory", "memory", ("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
)


def available_bytes(meminfo: Path = _MEMINFO, cgroups: Path = _CGROUPS, own_cgroups: Path = _OWN_CGROUPS) -> int | None:
    """Memory a new process may take: the least of what the system has available and what each control group leaves.

    None where the system does not tell (not Linux).
    """
    of_system = _meminfo_available(meminfo)
    limits = list(_cgroups_left(cgroups, own_cgroups))
    return min(limits if of_system is None else [of_system, *limits], default=None)


def _meminfo_available(meminfo: Path) -> int | None:
    if not meminfo.exists():
        return None
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroups_left(cgroups: Path, own_cgroups: Path) -> Iterator[int]:
    """What is left in our own group and in each around it: a limit holds for all that is inside."""
    paths = _own_paths(own_cgroups)
    for version in _VERSIONS:
        mount = cgroups / version.mount
        folder = mount / paths.get(version.controller, "")
        # A container sees its own group as the root, whatever path the system around it gives it.
        for group in (folder, *folder.parents):
            if group.is_relative_to(mount) and (left := _left(group, version)) is not None:
                yield left


def _own_paths(own_cgroups: Path) -> dict[str, str]:
    """The path of our group by controller; version 2 has one for all, whose name is empty."""
    if not own_cgroups.exists():
        return {}
    lines = [line.split(":", 2) for line in own_cgroups.read_text().splitlines()]
    return {name: line[2].lstrip("/") for line in lines if len(line) == 3 for name in line[1].split(",")}


def _left(group: Path, version: _Version) -> int | None:
    limits = [limit for name in version.limits if (limit := _number(group / name)) is not None]
    used = _number(group / version.used)
    if not limits or used is None:
        return None
    return max(0, min(limits) - used + _idle_page_cache(group, version.idle_files))


def _number(file: Path) -> int | None:
    """What stands in a file; None for no file and for "max"."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _idle_page_cache(group: Path, name: str) -> int:
    """Files read a while ago count as used, but are dropped when somebody needs the memory (as `MemAvailable` knows)."""
    stat = group / "memory.stat"
    if stat.exists():
        for line in stat.read_text().splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
    return 0
