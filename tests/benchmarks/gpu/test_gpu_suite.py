"""The suite runs here in toy sizes, says clearly that it needs a GPU, and loses nothing when a part fails."""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_suite
from benchmarks.gpu.parts import Machine, Part, Row, line, run
from benchmarks.gpu.random_model import shape_8b
from benchmarks.gpu.small_part import Measurement, _work, quickest, summed
from servery.engine.cuda.small_kernels import WAYS, _compiled_gate, _compiled_sum


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert gpu_suite.main([]) == 2
    assert "there is no GPU that torch finds; --dry" in capsys.readouterr().err


def test_every_part_runs_in_toy_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    code = gpu_suite.main(["--dry"])
    told = capsys.readouterr().out.splitlines()
    assert code == 0, "\n".join(told)
    for part in gpu_suite.PARTS:
        assert any(each.startswith(part.name[:5]) for each in told), part.name
    assert told[-1].startswith("cpu: ")


def test_there_is_time_for_every_part_with_a_target_and_less_than_8_minutes_for_all() -> None:
    *judged, small, rivals = gpu_suite.PARTS
    assert (small.name, rivals.name) == ("small", "rivals")
    assert sum(part.budget_s for part in judged) <= gpu_suite.LIMIT_S < 480


def test_figures_are_kept_after_each_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "suite.json"
    assert gpu_suite.main(["--dry", "--only", "ceilings", "--out", str(out)]) == 0
    told = json.loads(out.read_text())
    assert (told["device"], [row["part"] for row in told["rows"]]) == ("cpu", ["ceilings"] * 3)
    assert "3 rows in" in capsys.readouterr().out


def test_what_is_left_of_the_time_is_for_the_last_parts() -> None:
    def endless(machine: Machine) -> Iterator[Row]:
        yield Row("endless", "before", 2.0)
        time.sleep(100)

    kept: list[int] = []
    rows = run(
        [Part("endless", 60, endless), Part("late", 60, endless)],
        Machine(torch.device("cpu"), is_dry=True),
        limit_s=0.3,
        keep=lambda rows: kept.append(len(rows)),
    )
    assert [(row.part, row.verdict) for row in rows if row.name != "time of this part"] == [
        ("endless", ""),
        ("endless", "FAILED"),
        ("late", "FAILED"),
    ]
    assert rows[-1].note == "no time is left of 0 s"
    assert kept == [3]


class Lost(Machine):
    """A device that does nothing more once something failed."""

    def answers(self) -> bool:
        return False


def test_another_process_goes_on_where_the_device_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the rows so far and the parts that were not begun; the bandwidth it measures anew."""

    def fails(machine: Machine) -> Iterator[Row]:
        yield Row("invariance", "before", 1.0)
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    calls: list[list[str]] = []
    with monkeypatch.context() as patched:
        patched.setattr(gpu_suite, "Machine", Lost)
        patched.setattr(gpu_suite, "PARTS", (Part("invariance", 20, fails), *gpu_suite.PARTS[-2:]))
        patched.setattr(gpu_suite.tempfile, "gettempdir", lambda: str(tmp_path))
        patched.setattr(gpu_suite.os, "execv", lambda program, words: calls.append(words))
        gpu_suite.main(["--dry", "--out", str(tmp_path / "out.json")])
    capsys.readouterr()
    ((_, _, module, *words),) = calls
    assert (module, words[:3], words[4:]) == (
        "benchmarks.gpu_suite",
        ["--only", "small,rivals", "--after"],
        ["--out", str(tmp_path / "out.json")],
    )
    assert [row["name"] for row in json.loads((tmp_path / "out.json").read_text())["rows"]] == ["before", "invariance"]
    assert gpu_suite.main(["--dry", "--only", "rivals", "--after", words[3]]) == 1
    told = capsys.readouterr().out
    assert "illegal memory access" in told
    assert [each for each in told.splitlines() if each.startswith("rivals ")]


def test_every_way_of_what_stands_between_products_can_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In Triton's interpreter; torch.compile takes long, and is torch's to test."""
    monkeypatch.setattr(torch, "compile", lambda work, dynamic: work)
    machine = Machine(torch.device("cpu"), is_dry=True)
    for part, ways in WAYS.items():
        results = [_work(shape_8b(machine), machine.device, torch.float32, part, way, 2)() for way in ways]
        assert len({str(torch.utils._pytree.tree_map(torch.Tensor.size, each)) for each in results}) == 1
    _compiled_sum.cache_clear()
    _compiled_gate.cache_clear()


def test_triton_stays_where_no_other_way_is_clearly_quicker() -> None:
    found = [
        Measurement("norm", "triton", 1, 0.1, 2.0),
        Measurement("norm", "compiled", 1, 9.0, 1.9),
        Measurement("gate", "triton", 1, 0.1, 2.0),
        Measurement("gate", "triton", 64, 0.1, 2.0),
        Measurement("gate", "torch", 1, 0.1, 1.0),
        Measurement("gate", "torch", 64, 0.1, 2.5),
        Measurement("rotation", "triton", 1, 0.0, math.inf),
        Measurement("rotation", "torch", 1, 0.1, 5.0),
    ]
    assert quickest(summed(found)) == {"norm": "triton", "gate": "torch", "rotation": "torch"}


def test_a_part_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_suite.main(["--dry", "--only", "atention"]) == 2
    assert "no part is called atention; there are ceilings, " in capsys.readouterr().err


def test_a_part_that_fails_or_takes_too_long_loses_only_itself() -> None:
    def fails(machine: Machine) -> Iterator[Row]:
        yield Row("fails", "before", 1.0)
        raise RuntimeError("CUDA out of memory")

    def hangs(machine: Machine) -> Iterator[Row]:
        yield Row("hangs", "before", 2.0)
        time.sleep(100)

    def works(machine: Machine) -> Iterator[Row]:
        yield Row("works", "rate", 3.0, "tok/s", 2.5)
        yield Row("works", "cost", 3.0, "ms", 2.5, is_cost=True)

    rows = run(
        [Part("fails", 60, fails), Part("hangs", 0.5, hangs), Part("works", 60, works)],
        Machine(torch.device("cpu"), is_dry=True),
    )
    told = [(row.part, row.name, row.verdict, row.note) for row in rows if row.name != "time of this part"]
    assert told == [
        ("fails", "before", "", ""),
        ("fails", "fails", "FAILED", "RuntimeError: CUDA out of memory"),
        ("hangs", "before", "", ""),
        ("hangs", "hangs", "FAILED", "OutOfTime: more than 0 s"),
        ("works", "rate", "met", ""),
        ("works", "cost", "missed", ""),
    ]
    assert line(rows[-3]).split() == ["works", "rate", "3", "tok/s", ">=", "2.5", "met"]
