"""What a process may take is the least of what the system has and what each control group around it leaves."""

from pathlib import Path

import pytest

from servery.engine.available_memory import available_bytes

KIB = 1 << 10


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A system with 50 KiB available, whose own group is /outer/inner."""
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable:   50 kB\n")
    return tmp_path


def available(machine: Path) -> int | None:
    return available_bytes(machine / "meminfo", machine / "cgroups", machine / "own")


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_the_smaller_of_system_and_container_counts(machine: Path) -> None:
    root = machine / "cgroups"
    assert available(machine) == 50 * KIB
    group(root, memory__max=40 * KIB, memory__current=10 * KIB)
    assert available(machine) == 30 * KIB
    group(root, memory__stat=f"anon 1024\ninactive_file {8 * KIB}\nactive_file 1024")
    assert available(machine) == 38 * KIB, "files that were read are no lost memory"
    group(root, memory__high=35 * KIB)
    assert available(machine) == 33 * KIB, "beyond that everything is slowed down"
    group(root, memory__max="max", memory__high="max")
    assert available(machine) == 50 * KIB


def test_a_limit_of_any_group_around_the_own_one_holds(machine: Path) -> None:
    """A service's limit is on its own group, of which the root knows nothing."""
    root = machine / "cgroups"
    (machine / "own").write_text("0::/outer/inner\n")
    group(root / "outer" / "inner", memory__max="max", memory__current=4 * KIB)
    group(root / "outer", memory__max=20 * KIB, memory__current=5 * KIB)
    group(root / "beside", memory__max=1, memory__current=1)
    assert available(machine) == 15 * KIB
    group(root / "outer" / "inner", memory__max=12 * KIB)
    assert available(machine) == 8 * KIB


def test_version_1_of_control_groups_is_read(machine: Path) -> None:
    root = machine / "cgroups" / "memory"
    (machine / "own").write_text("9:name=systemd:/\n4:cpu,memory:/jobs/a\n0::/\n")
    group(root, memory__limit_in_bytes=9223372036854771712, memory__usage_in_bytes=9 * KIB)
    assert available(machine) == 50 * KIB
    group(root / "jobs" / "a", memory__limit_in_bytes=30 * KIB, memory__usage_in_bytes=20 * KIB)
    group(root / "jobs" / "a", memory__stat=f"inactive_file 1\ntotal_inactive_file {2 * KIB}")
    assert available(machine) == 12 * KIB


def test_a_path_that_the_container_does_not_see_is_its_root(machine: Path) -> None:
    (machine / "own").write_text("0::/system.slice/container.scope\n")
    group(machine / "cgroups", memory__max=20 * KIB, memory__current=5 * KIB)
    assert available(machine) == 15 * KIB


def test_a_group_over_its_limit_leaves_nothing(machine: Path) -> None:
    group(machine / "cgroups", memory__max=4 * KIB, memory__current=5 * KIB)
    assert available(machine) == 0


def test_it_is_unknown_where_the_system_does_not_tell(tmp_path: Path) -> None:
    assert available(tmp_path) is None
