"""The suite runs here in toy sizes, says clearly that it needs a GPU, and loses nothing when a part fails."""

import time
from collections.abc import Iterator

import pytest
import torch

from benchmarks import gpu_suite
from benchmarks.gpu.parts import Machine, Part, Row, line, run


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
    assert sum(part.budget_s for part in gpu_suite.PARTS) < 480


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
