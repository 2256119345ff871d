"""lm-eval's tasks as they are written, and what counts as the same score."""

import json
from pathlib import Path

from conformance.harness.compare import judge
from conformance.harness.tasks import TASKS, write_tasks
from servery import amuse


def test_tasks_are_drawn_by_their_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_tasks(tmp_path / name, amuse.path(), 8, seed)
    data = [(tmp_path / name / "amuse.jsonl").read_text() for name in "abc"]
    rows = [json.loads(line) for line in data[0].splitlines()]

    assert (data[0] == data[1], data[0] == data[2], len(rows)) == (True, False, 8)
    assert all(row["choices"][row["correct"]] == row["expected"] and len(set(row["choices"])) == 4 for row in rows)
    assert all(row["prompt"].endswith("<|assistant|>\n") or row["prompt"] for row in rows)
    assert sorted(path.stem for path in (tmp_path / "a").glob("*.yaml")) == sorted(TASKS)


def test_scores_are_equal_when_every_answer_is() -> None:
    here = {"metrics": {"acc": 0.5}, "answers": [[[-1.5, True], [-2.0, False]], ["text"]]}
    near = {"metrics": {"acc": 0.5}, "answers": [[[-1.5001, True], [-2.0, False]], ["text"]]}
    told = judge("t", here, near)
    assert (told.is_equal, told.answers, told.different) == (True, 2, 0)
    assert str(told).startswith("t: through the API and offline acc 0.5 and 0.5; 0 of 2 answers differ, log prob")


def test_another_text_flag_or_score_is_a_difference() -> None:
    here = {"metrics": {"acc": 0.5}, "answers": [[[-1.5, True]], ["text"], [1.0]]}
    other = {"metrics": {"acc": 0.5}, "answers": [[[-1.5, False]], ["Text"], [1.0, 2.0]]}
    told = judge("t", here, other)
    assert (told.is_equal, told.different) == (False, 3)
    assert str(told).startswith("DIFFERENT: t:")
    assert not judge("t", here, {**here, "metrics": {"acc": 0.6}}).is_equal
    assert not judge("t", {"metrics": {}, "answers": []}, {"metrics": {}, "answers": []}).is_equal
