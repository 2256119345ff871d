import sys
from pathlib import Path

import pytest

from servery.bench import bandwidth, ceilings
from servery.telemetry.ceilings import read_ceilings


@pytest.mark.slow
def test_a_cpu_is_measured_and_what_came_of_it_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "ceilings.json"
    monkeypatch.setattr(sys, "argv", ["ceilings", "--threads", "1", "--out", str(path)])
    monkeypatch.setattr(ceilings, "_LEAST_SHARE", 0.0)  # the tests' machine may be busy
    assert ceilings.main() == 0
    found = read_ceilings(path)
    assert 1e9 < found.read_bytes_per_s < 1e13
    assert set(found.operations_per_s) == {"float32", "bfloat16"}


def test_where_there_is_no_room_nothing_is_measured_or_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ceilings.json"
    monkeypatch.setattr(sys, "argv", ["ceilings", "--out", str(path)])
    monkeypatch.setattr(ceilings, "available_bytes", lambda: bandwidth.BUFFER_BYTES)
    assert ceilings.main() == 1
    assert "536870912 bytes of memory are too few to measure in" in capsys.readouterr().err
    assert not path.exists()


def test_a_gpu_is_measured_by_copies_and_products_of_its_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, with little to do: what is asked of torch is the same."""
    waited: list[str] = []
    monkeypatch.setattr("torch.cuda.synchronize", waited.append)
    monkeypatch.setattr(ceilings, "_GPU_BUFFER_BYTES", 1 << 12)
    monkeypatch.setattr(ceilings, "_GPU_GEMM_SIZE", 8)
    monkeypatch.setattr(ceilings, "_GPU_CALLS", 1)
    found = ceilings._of_gpu("cpu")
    assert set(found["operations_per_s"]) == {"float32", "bfloat16", "float16"}
    assert found["bandwidth"]["best_bytes_per_s"] > 0
    assert set(waited) == {"cpu"}


def test_what_was_measured_while_others_were_busy_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, wall, cpu = tmp_path / "ceilings.json", iter([0.0, 2.0, 10.0, 12.0]), iter([0.0, 0.4, 1.0, 2.9])
    machine = {"bandwidth": {"best_bytes_per_s": 5.0}, "operations_per_s": {}}
    monkeypatch.setattr(sys, "argv", ["ceilings", "--out", str(path)])
    monkeypatch.setattr(ceilings, "measured", lambda device, threads: machine)
    monkeypatch.setattr(ceilings, "perf_counter", lambda: next(wall))
    monkeypatch.setattr(ceilings, "process_time", lambda: next(cpu))
    assert ceilings.main() == 1
    assert "others were busy on it: this process had 20% of one processor, not 85%" in capsys.readouterr().err
    assert not path.exists()
    assert ceilings.main() == 0
    assert read_ceilings(path).read_bytes_per_s == 5.0
