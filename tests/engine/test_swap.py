"""Memory that leaves and comes back: the system's own account says that it left, and every byte is as it was."""

import errno
import mmap
import os
from pathlib import Path

import pytest
import torch

from servery.engine import swap
from servery.engine.errors import CannotSleep
from servery.engine.held_tensors import memory_of
from servery.engine.swap import MIN_BYTES, Region, Swap, default_folder, is_in_memory

MIB = 1 << 20


def disk_folder() -> Path:
    """Where the tests' own temporary folder may be in memory, and this one is not."""
    folder = default_folder()
    if is_in_memory(folder):
        pytest.skip("there is no disk to write to")
    return folder


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def test_what_is_kept_comes_back_to_its_place_and_what_is_lost_as_zeros() -> None:
    kept = torch.randint(256, (40 * MIB,), dtype=torch.uint8)
    lost = torch.ones(20 * MIB, dtype=torch.uint8)
    copy, place = kept.clone(), kept.data_ptr()
    moved = Swap(memory_of([kept]), memory_of([lost]), disk_folder())
    before_bytes = resident_bytes()

    freed = moved.out()
    assert moved.is_out
    assert 60 * MIB - 4 * mmap.PAGESIZE <= freed <= 60 * MIB
    assert before_bytes - resident_bytes() > 50 * MIB
    moved.back()

    assert (moved.is_out, kept.data_ptr()) == (False, place)
    assert torch.equal(kept, copy)
    middle = lost[mmap.PAGESIZE : -mmap.PAGESIZE]
    assert not middle.any()


def test_the_second_time_nothing_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = torch.arange(MIB, dtype=torch.int64)
    moved = Swap(memory_of([kept]), [], disk_folder())
    moved.out()
    moved.back()
    monkeypatch.delattr(os, "pwrite")
    moved.out()
    moved.back()
    assert torch.equal(kept, torch.arange(MIB, dtype=torch.int64))


def test_going_back_without_having_been_away_changes_nothing() -> None:
    kept = torch.arange(MIB)
    Swap(memory_of([kept]), []).back()
    assert torch.equal(kept, torch.arange(MIB))


def test_a_full_disk_is_told_with_bytes_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = torch.arange(MIB, dtype=torch.int64)
    moved = Swap(memory_of([kept]), [], disk_folder())

    def is_full(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", is_full)
    with pytest.raises(
        CannotSleep, match=r"the weights \(83\d+ bytes, .* No space left on device\. .*name another folder"
    ):
        moved.out()
    assert not moved.is_out
    assert torch.equal(kept, torch.arange(MIB, dtype=torch.int64))


def test_memory_that_the_system_does_not_take_is_all_there_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = torch.arange(MIB), torch.arange(MIB) + 1
    moved = Swap(memory_of([first, second]), [], disk_folder())
    give_back = swap._give_back
    given: list[Region] = []

    def refuses_the_second(region: Region) -> None:
        if given:
            raise CannotSleep("locked")
        given.append(region)
        give_back(region)

    monkeypatch.setattr(swap, "_give_back", refuses_the_second)
    with pytest.raises(CannotSleep, match="locked"):
        moved.out()
    assert not moved.is_out
    assert torch.equal(first, torch.arange(MIB))
    assert torch.equal(second, torch.arange(MIB) + 1)


def test_only_private_memory_of_some_size_moves(tmp_path: Path) -> None:
    """A file that is mapped would be written to, or could not be."""
    path = tmp_path / "file"
    path.write_bytes(bytes(MIB))
    mapped = torch.from_file(str(path), shared=True, size=MIB, dtype=torch.uint8)
    small = torch.ones(MIN_BYTES // 2, dtype=torch.uint8)
    moved = Swap(memory_of([mapped, small]), [], disk_folder())
    assert moved.out() == 0
    moved.back()
    assert small.all()


def test_a_folder_in_memory_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(swap, "is_in_memory", lambda folder: True)
    with pytest.raises(CannotSleep, match=r"which is in memory itself; name a folder on a disk"):
        Swap(memory_of([torch.ones(MIB)]), [], tmp_path).out()


def test_a_folder_is_in_memory_if_the_innermost_mount_around_it_is(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"rootfs / ext4 rw 0 0\ntmpfs {tmp_path} tmpfs rw 0 0\ndisk {tmp_path}/a\\040b ext4 rw 0 0\nproc /proc proc rw 0 0\n"
    )
    (tmp_path / "a b" / "c").mkdir(parents=True)
    (tmp_path / "d").mkdir()
    found = {name: is_in_memory(tmp_path / name, mounts) for name in ("a b/c", "d")}
    assert found == {"a b/c": False, "d": True}
    assert not is_in_memory(Path("/"), mounts)


def test_what_is_no_linux_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MADV_DONTNEED")
    with pytest.raises(CannotSleep, match="no Linux"):
        Swap([], []).out()
