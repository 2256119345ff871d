"""The gate passes only what is shown to lose less than the margin, in every stratum; its verdict can be checked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from servery.evals import calibration, certificate, gate
from servery.evals.certificate import Certificate, Rule
from servery.evals.compare import Flip, compare, scores
from servery.evals.errors import ResultFileError
from servery.evals.results import Results
from servery.evals.statistics import Pairs, wilson
from tests.evals.runs import COMPUTED, checkpoint, paired, save

RULE = Rule(gate.MARGIN, gate.CONFIDENCE)
GOOD = (560, 20, 20, 100)


def two_runs(folder: Path, **strata: tuple[int, int, int, int]) -> tuple[Results, Results]:
    sides = {name: paired(*counts) for name, counts in strata.items()}
    one = save(folder / "a.jsonl", {name: side[0] for name, side in sides.items()})
    other = save(folder / "b.jsonl", {name: side[1] for name, side in sides.items()})
    return one, other


def test_a_run_has_the_accuracy_of_each_stratum_and_of_all(tmp_path: Path) -> None:
    rows = scores(save(tmp_path / "r.jsonl", {"x": [True, False, None], "y": [True], "z": [None]}))
    assert [(row.stratum, row.n, row.right, row.missing, row.accuracy) for row in rows] == [
        ("x", 2, 1, 1, 0.5), ("y", 1, 1, 0, 1.0), ("z", 0, 0, 1, None), ("(all)", 3, 2, 2, 2 / 3),
    ]  # fmt: skip
    assert rows[0].interval == wilson(1, 2)


def test_two_runs_are_paired_by_task(tmp_path: Path) -> None:
    one = save(tmp_path / "a.jsonl", {"x": [True, True, False, None], "y": [False]})
    other = save(tmp_path / "b.jsonl", {"x": [True, False, True, True], "y": [False]})
    found = compare(one, other)
    assert [(row.stratum, row.pairs, row.missing) for row in (*found.strata, found.whole)] == [
        ("x", Pairs(1, 1, 1, 0), 1), ("y", Pairs(0, 0, 0, 1), 0), ("(all)", Pairs(1, 1, 1, 1), 1),
    ]  # fmt: skip
    assert found.flips == [
        Flip("x/1", "x", is_loss=True, baseline="True", candidate="False"),
        Flip("x/2", "x", is_loss=False, baseline="False", candidate="True"),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"tasks": {"sha256": "f" * 64}}, "only runs over the same file"), ({"settings": {"judge": {}}}, "different judges")],
)  # fmt: skip
def test_runs_of_different_things_are_not_compared(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    one, other = two_runs(tmp_path, x=(1, 0, 0, 0))
    head = one.header
    if "tasks" in changes:
        changes = {"tasks": msgspec.structs.replace(head.tasks, **changes["tasks"])}
    data = other.path.read_bytes().split(b"\n", 1)[1]
    other.path.write_bytes(msgspec.json.encode(msgspec.structs.replace(head, **changes)) + b"\n" + data)
    with pytest.raises(ResultFileError, match=message):
        compare(one, certificate.results.read(other.path))


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        (GOOD, None),
        ((59, 0, 0, 0), None),
        ((100, 0, 0, 20), None),
        ((58, 0, 0, 2), "too small to tell: the baseline gets 58 right, at least 59 are needed"),
        ((300, 10, 0, 90), "a loss of 5% is not excluded; about "),
        ((300, 40, 0, 60), "a loss of 5% is not excluded"),
        ((0, 0, 50, 50), "the baseline gets nothing right"),
    ],
)
def test_a_stratum_passes_only_if_the_loss_is_excluded(
    tmp_path: Path, counts: tuple[int, int, int, int], reason: str | None
) -> None:
    verdict = gate.judge(compare(*two_runs(tmp_path, x=counts)))
    (stratum,) = verdict.strata
    assert verdict.has_passed is stratum.has_passed is (reason is None)
    assert (stratum.reason or "").startswith(reason or "")
    assert stratum.lower_bound is None or (stratum.lower_bound > -0.05) is (reason is None or "small" in reason)


def test_one_stratum_that_fails_fails_all(tmp_path: Path) -> None:
    verdict = gate.judge(compare(*two_runs(tmp_path, x=GOOD, y=(200, 30, 0, 0), z=GOOD)))
    assert [stratum.has_passed for stratum in verdict.strata] == [True, False, True]
    assert not verdict.has_passed
    assert not gate.Verdict(0.05, 0.95, []).has_passed


def test_a_task_without_an_answer_fails_its_stratum(tmp_path: Path) -> None:
    one, other = paired(*GOOD)
    found = compare(save(tmp_path / "a.jsonl", {"x": one}), save(tmp_path / "b.jsonl", {"x": [*other[:-1], None]}))
    assert gate.judge(found).strata[0].reason == "1 tasks have no answer from both; run them again"


def test_the_sizes_that_are_advised_have_the_power_they_are_said_to_have(tmp_path: Path) -> None:
    """Baseline 80 %, flips 10 %, a true loss of 1 point: 690 tasks, as expected counts, are just about enough."""
    n = 690
    counts = [round(n * share) for share in (0.745, 0.055, 0.045, 0.155)]
    (stratum,) = gate.judge(compare(*two_runs(tmp_path, x=(counts[0], counts[1], counts[2], counts[3])))).strata
    assert stratum.has_passed
    few = [count // 3 for count in counts]
    (stratum,) = gate.judge(compare(*two_runs(tmp_path, x=(few[0], few[1], few[2], few[3])))).strata
    assert not stratum.has_passed


@pytest.fixture
def issued(tmp_path: Path) -> tuple[Path, Certificate]:
    one, other = paired(*GOOD)
    weights = checkpoint(tmp_path / "full"), checkpoint(tmp_path / "int8", b"8")
    runs = save(tmp_path / "a.jsonl", {"x": one}, weights[0]), save(tmp_path / "b.jsonl", {"x": other}, weights[1])
    path = tmp_path / "gate.json"
    return path, certificate.issue(path, *runs, *RULE)


def test_a_certificate_holds_as_long_as_nothing_changes(issued: tuple[Path, Certificate]) -> None:
    path, found = issued
    assert certificate.read(path) == found
    assert (found.passed, found.notes, certificate.problems(path, found, RULE)) == (True, [], [])
    assert (found.baseline.results, found.candidate.model) == ("a.jsonl", "m")


def change(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def drop_line(folder: Path) -> None:
    path = folder / "b.jsonl"
    path.write_bytes(path.read_bytes().rsplit(b"\n", 2)[0] + b"\n")


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (change("int8/model.safetensors", "other"), "the candidate's weights in"),
        (change("full/config.json", "[]"), "the baseline's weights in"),
        (change("int8/tokenizer.json", "[]"), "the candidate's tokenizer in"),
        (lambda folder: (folder / "int8" / "model.safetensors").unlink(), "the candidate's checkpoint cannot be checked"),
        (drop_line, "the candidate's answers in b.jsonl have changed"),
        (lambda folder: (folder / "a.jsonl").unlink(), "the runs cannot be judged again"),
        (change("t.jsonl", "{}"), "is not the task file that was used"),
    ],
)  # fmt: skip
def test_a_change_of_what_it_is_bound_to_is_found(
    issued: tuple[Path, Certificate], spoil: Callable[[Path], object], problem: str
) -> None:
    path, found = issued
    spoil(path.parent)
    tasks = path.parent / "t.jsonl"
    problems = certificate.problems(path, found, RULE, tasks if tasks.exists() else None)
    assert any(problem in one for one in problems), problems


def test_a_verdict_is_bound_to_the_calibration_text_and_shows_what_computed(tmp_path: Path) -> None:
    text = tmp_path / "text.md"
    text.write_text("as it was")
    one, other = paired(*GOOD)
    settings = {"engine": calibration.bound({"quantize": "int4", "calibration": str(text)})}
    torch = msgspec.structs.replace(COMPUTED, kernels="torch")
    runs = (
        save(tmp_path / "a.jsonl", {"x": one}, computed=COMPUTED),
        save(tmp_path / "b.jsonl", {"x": other}, computed=torch, settings=settings),
    )
    path = tmp_path / "gate.json"
    found = certificate.issue(path, *runs, *RULE)
    assert certificate.read(path) == found
    assert (found.baseline.computed, found.candidate.computed) == (COMPUTED, torch)
    assert certificate.problems(path, found, RULE) == []
    text.write_text("junk")
    (problem,) = certificate.problems(path, found, RULE)
    assert problem == f"the candidate's calibration text {text} is not the one that was used"
    text.unlink()
    (problem,) = certificate.problems(path, found, RULE)
    assert problem.startswith(f"the candidate's calibration text {text} cannot be checked: ")


def test_a_verdict_whose_settings_are_not_those_of_its_runs_is_found_out(issued: tuple[Path, Certificate]) -> None:
    path, found = issued
    for changes in ({"computed": COMPUTED}, {"settings": {"engine": {"quantize": "int8"}}}):
        forged = certificate._sealed(
            msgspec.structs.replace(found, candidate=msgspec.structs.replace(found.candidate, **changes))
        )
        (problem,) = certificate.problems(path, forged, RULE)
        assert problem == "the candidate's answers in b.jsonl were computed otherwise than it says"


@pytest.mark.parametrize(
    ("changes", "problems"),
    [
        ({"passed": False}, ["digest", "did not pass", "another verdict"]),
        ({"version": "9.9"}, ["digest", "made by version 9.9"]),
        ({"margin": 0.2}, ["digest", "held to a margin of 20.0%; 5.0% is asked"]),
        ({"strata": []}, ["digest", "another verdict"]),
        ({"tasks_sha256": "f" * 64}, ["digest", "the baseline's answers", "the candidate's answers"]),
    ],
)
def test_a_certificate_that_was_changed_is_found_out(
    issued: tuple[Path, Certificate], changes: dict[str, Any], problems: list[str]
) -> None:
    path, found = issued
    told = certificate.problems(path, msgspec.structs.replace(found, **changes), RULE)
    assert len(told) == len(problems)
    assert all(problem in one for problem, one in zip(problems, told, strict=True))


def test_what_a_run_is_not_bound_to_is_noted(tmp_path: Path) -> None:
    found = certificate.issue(tmp_path / "g.json", *two_runs(tmp_path, x=GOOD), *RULE)
    assert [note.split(" is ")[0] for note in found.notes] == ["the baseline", "the candidate"]


@pytest.mark.parametrize("content", ["", "{}", '{"schema": "servery.eval.run/1"}'])
def test_a_file_that_is_no_certificate_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "g.json").write_text(content)
    with pytest.raises(ResultFileError, match="no file that `servery eval gate` has written"):
        certificate.read(tmp_path / "g.json")
