"""Memory that goes to a file and comes back to the same addresses, for a model that sleeps.

The system's own swapping would do the same where there is swap space; most servers have none. Addresses stay, because
kernels keep pointers to weights.
"""

import ctypes
import mmap
import os
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from servery.byte_size import format_byte_size
from servery.engine.errors import CannotSleep

# Smaller pieces would cost a system call each and free next to nothing.
MIN_BYTES = 16 * mmap.PAGESIZE
_PIECE_BYTES = 64 << 20
_MAPS = Path("/proc/self/maps")
_MOUNTS = Path("/proc/self/mounts")
_IN_MEMORY = ("tmpfs", "ramfs")


class Region(NamedTuple):
    """A part of this process's memory."""

    address: int
    nbytes: int


class Swap:
    """The memory of a model: `kept` regions never change and come back as they were, `lost` ones come back as zeros.

    What is kept is written once, to a file without a name in `folder` (None: where such files go): it takes its room
    on the disk until the process ends, and the second time there is nothing to write.
    """

    def __init__(self, kept: Sequence[Region], lost: Sequence[Region], folder: Path | None = None) -> None:
        self._kept = kept
        self._lost = lost
        self._folder = folder
        self._fd: int | None = None
        self._written: Sequence[Region] = ()
        self.is_out = False

    @property
    def kept_bytes(self) -> int:
        """What has to be in memory again before anything can be computed."""
        return sum(region.nbytes for region in self._kept)

    def out(self) -> int:
        """Give the memory back to the system; returns how many bytes.

        Raises `CannotSleep` with the reason and what to do, and then what is kept has not changed.
        """
        private = _private_memory()
        if self._fd is None:
            self._written = _movable(self._kept, private)
            self._fd = _write(self._written, self._folder or default_folder())
        given_back = [*self._written, *_movable(self._lost, private)]
        self.is_out = True
        try:
            for region in given_back:
                _give_back(region)
        except CannotSleep:
            self.back()  # what is gone already
            raise
        return sum(region.nbytes for region in given_back)

    def back(self) -> None:
        """Take the memory again, with the content that is kept. Raises `OSError` if the disk fails: all is lost then."""
        if self._fd is None or not self.is_out:
            return
        at = 0
        for piece in _pieces(self._written):
            if os.preadv(self._fd, [piece], at) != len(piece):
                raise OSError(f"the weights of a model that slept cannot be read back from byte {at} on")
            at += len(piece)
        self.is_out = False


def default_folder() -> Path:
    """Where files without a name go: /var/tmp is on a disk even where /tmp is not."""
    folder = Path("/var/tmp")  # noqa: S108 - there is no name to guess
    return folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())


def is_in_memory(folder: Path, mounts: Path = _MOUNTS) -> bool:
    """Whether files in a folder take memory themselves, as in a tmpfs."""
    place, kind = Path("/"), ""
    for line in mounts.read_text().splitlines() if mounts.exists() else ():
        _, target, found, *_ = line.split(" ")
        mounted = Path(target.replace("\\040", " "))
        if folder.resolve().is_relative_to(mounted) and len(mounted.parts) >= len(place.parts):
            place, kind = mounted, found
    return kind in _IN_MEMORY


def _write(regions: Sequence[Region], folder: Path) -> int:
    """A descriptor of a new file with the content of all regions, one after the other, out of the page cache."""
    size = sum(region.nbytes for region in regions)
    if is_in_memory(folder):
        raise CannotSleep(
            f"the weights would go to {folder}, which is in memory itself; name a folder on a disk (--sleep-dir), or "
            "let the model sleep at level 2, which needs no disk."
        )
    try:
        with tempfile.TemporaryFile(dir=folder, prefix="servery-") as file:
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
            at = 0
            for piece in _pieces(regions):
                at += os.pwrite(file.fileno(), piece, at)
            os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return os.dup(file.fileno())
    except OSError as error:
        raise CannotSleep(
            f"the weights ({size} bytes, {format_byte_size(size)}) cannot be written to {folder}: {error.strerror}. Make "
            "room, name another folder (--sleep-dir), or let the model sleep at level 2, which needs no disk."
        ) from error


def _pieces(regions: Sequence[Region]) -> Iterator[memoryview]:
    """The memory of the regions itself, in parts that one system call can move."""
    for address, nbytes in regions:
        for start in range(0, nbytes, _PIECE_BYTES):
            size = min(_PIECE_BYTES, nbytes - start)
            yield memoryview((ctypes.c_char * size).from_address(address + start)).cast("B")


def _movable(regions: Sequence[Region], private: Sequence[Region]) -> list[Region]:
    """The whole pages of those regions that are large enough, and are memory of this process alone and of no file."""
    starts = [region.address for region in private]
    movable = []
    for region in map(_whole_pages, regions):
        at = bisect_right(starts, region.address) - 1
        is_private = at >= 0 and region.address + region.nbytes <= sum(private[at])
        if region.nbytes >= MIN_BYTES and is_private:
            movable.append(region)
    return movable


def _whole_pages(region: Region) -> Region:
    page = mmap.PAGESIZE
    start = -(-region.address // page) * page
    return Region(start, max(0, (region.address + region.nbytes) // page * page - start))


def _private_memory(maps: Path = _MAPS) -> list[Region]:
    """What can be given back and taken again at the same place: writable, private and of no file; neighbours as one."""
    if not maps.exists() or not hasattr(mmap, "MADV_DONTNEED"):
        raise CannotSleep("this system is no Linux: only there can weights leave memory; sleep at level 2 instead.")
    found: list[Region] = []
    for line in maps.read_text().splitlines():
        span, rights, _, _, inode, *_ = line.split()
        if rights != "rw-p" or inode != "0":
            continue
        start, end = (int(number, 16) for number in span.split("-"))
        if found and sum(found[-1]) == start:
            start = found.pop().address
        found.append(Region(start, end - start))
    return found


def _give_back(region: Region) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    address, nbytes = ctypes.c_void_p(region.address), ctypes.c_size_t(region.nbytes)
    if libc.madvise(address, nbytes, mmap.MADV_DONTNEED):
        error = ctypes.get_errno()
        raise CannotSleep(f"the system does not take memory back ({os.strerror(error)}); sleep at level 2 instead.")
