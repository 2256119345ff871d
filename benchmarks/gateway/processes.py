"""What processes take, with all that they started, as Linux tells it."""

import os
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def tree(process: int) -> list[int]:
    """The process and its descendants, as far as they live."""
    found = [process]
    for task in Path(f"/proc/{process}/task").glob("*"):
        for child in _text(task / "children").split():
            found += tree(int(child))
    return found


def cpu_s(process: int) -> float:
    """CPU time of the whole tree so far, in user and system mode, to 10 ms."""
    ticks = 0
    for each in tree(process):
        fields = _text(Path(f"/proc/{each}/stat")).rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12]) if fields else 0
    return ticks / _TICKS_PER_S


def rss_bytes(process: int) -> int:
    """Resident memory of the whole tree; what processes share counts for each."""
    pages = [_text(Path(f"/proc/{each}/statm")).split() for each in tree(process)]
    return sum(int(each[1]) for each in pages if each) * os.sysconf("SC_PAGE_SIZE")


def command_of(process: int) -> str:
    """The command line of a process."""
    return _text(Path(f"/proc/{process}/cmdline")).replace("\0", " ")


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended
        return ""
