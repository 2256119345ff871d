"""The task file of the amuse strata: held out, valid, different questions, the same each time."""

import json
from pathlib import Path

import pytest

from servery import amuse
from servery.engine.tokenizer import Tokenizer
from servery.evals.task import Task, load
from training import export_tasks
from training.mix import KINDS, STRATA, Dialogue
from training.tasks.scene import Turn


@pytest.mark.parametrize("name", STRATA)
def test_each_stratum_has_as_many_different_questions_as_wanted(name: str) -> None:
    found = export_tasks.stratum(name, 12, seed=7)
    assert len({json.dumps([task["messages"], task.get("tools")]) for task in found}) == 12
    assert len({task["id"] for task in found}) == 12
    assert {task["stratum"] for task in found} == {name}
    kinds = {kind.name for kind in KINDS if kind.stratum == name}
    assert {task["id"].split("/")[1] for task in found} == kinds or len(kinds) > 12


def test_a_conversation_is_asked_answer_by_answer_with_what_was_said_before() -> None:
    dialogue = Dialogue((Turn("Call f.", "<tool_call>f</tool_call>"), Turn("4", "Result: 4", role="tool")), "Be brief.")
    first, second = export_tasks.tasks_of(dialogue)
    assert first == {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Call f."}],
        "expected": "<tool_call>f</tool_call>",
        "scorer": "exact",
    }
    assert second["messages"][2:] == [
        {"role": "assistant", "content": "<tool_call>f</tool_call>"},
        {"role": "tool", "content": "4", "tool_call_id": "call-3"},
    ]


def test_the_file_is_one_that_servery_reads_and_the_same_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jsonl", "b.jsonl", "c.jsonl.gz"):
        words = ["export_tasks", str(tmp_path / name), "--per-stratum", "5", "--strata", "arithmetic", "tools"]
        monkeypatch.setattr("sys.argv", words)
        export_tasks.main()
    found = load(tmp_path / "a.jsonl")
    assert [task.stratum for task in found.tasks] == ["arithmetic"] * 5 + ["tools"] * 5
    assert found.sha256 == load(tmp_path / "b.jsonl").sha256 == load(tmp_path / "c.jsonl.gz").sha256


def shipped(name: str) -> list[Task]:
    return [task for task in load(amuse.TASKS).tasks if task.stratum == name]


def exported(name: str, tmp_path: Path) -> list[Task]:
    lines = [json.dumps(task) for task in export_tasks.stratum(name, export_tasks.PER_STRATUM, seed=7)]
    export_tasks.write(tmp_path / "t.jsonl", lines)
    return [*load(tmp_path / "t.jsonl").tasks]


def test_the_shipped_file_has_enough_of_each_stratum_for_the_gate() -> None:
    assert {name: len(shipped(name)) for name in STRATA} == dict.fromkeys(STRATA, 700)


@pytest.mark.parametrize("name", ["tools", *(pytest.param(name, marks=pytest.mark.slow) for name in STRATA if name != "tools")])  # fmt: skip
def test_the_shipped_questions_are_those_of_the_generators(name: str, tmp_path: Path) -> None:
    """After a change of a generator, `python -m training.export_tasks` writes the file anew."""
    assert shipped(name) == exported(name, tmp_path)


def test_every_shipped_answer_can_be_finished() -> None:
    tokenizer = Tokenizer.load(amuse.path())
    tasks = load(amuse.TASKS).tasks
    assert [task.id for task in tasks if len(tokenizer.encode(task.expected)) >= task.max_tokens] == []
