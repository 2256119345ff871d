"""A task file is checked as a whole before anything is asked; what is wrong is named by line and key."""

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from servery.evals.errors import TaskFileError
from servery.evals.task import Task, load, sha256_of

GOOD: dict[str, Any] = {"id": "a", "prompt": "1 + 1 =", "expected": "2", "scorer": "exact"}


def written(path: Path, *lines: dict[str, Any] | str) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_tasks_keep_their_order_and_the_file_its_hash(tmp_path: Path) -> None:
    chat = {"id": "b", "messages": [{"role": "user", "content": "hi"}], "expected": 2, "scorer": "number"}
    path = written(tmp_path / "t.jsonl", GOOD, "", {**chat, "stratum": "chat", "tolerance": 0.5})
    found = load(path)
    assert found.tasks == (
        Task(id="a", prompt="1 + 1 =", expected="2", scorer="exact", stratum="all", max_tokens=256),
        Task(id="b", messages=chat["messages"], expected=2, scorer="number", stratum="chat", tolerance=0.5),
    )
    assert (found.name, found.sha256) == ("t.jsonl", hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_packed_file_is_the_same_tasks(tmp_path: Path) -> None:
    plain = written(tmp_path / "t.jsonl", GOOD)
    packed = tmp_path / "t.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert (load(packed).tasks, load(packed).sha256) == (load(plain).tasks, load(plain).sha256)
    assert sha256_of(packed) == load(plain).sha256


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: data[:20] + b"xxxx" + data[24:], lambda _: b"{}"]
)
def test_a_damaged_packed_file_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    packed = tmp_path / "t.jsonl.gz"
    packed.write_bytes(damage(gzip.compress(json.dumps(GOOD).encode())))
    with pytest.raises(TaskFileError, match=r"t\.jsonl\.gz cannot be unpacked: .*; a name in \.gz is for"):
        load(packed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": None}, "either `prompt` or `messages`"),
        ({"messages": [{"role": "user", "content": "x"}]}, "either `prompt` or `messages`"),
        ({"prompt": ""}, "`prompt` is empty"),
        ({"prompt": None, "messages": []}, "`messages` is empty"),
        ({"prompt": None, "messages": [{"content": "x"}]}, "`messages[0]` has no `role`"),
        ({"tools": [{}]}, "`tools` need `messages`"),
        ({"max_tokens": 0}, "`max_tokens` is 0; it must be at least 1"),
        ({"max_tokens": "many"}, "Expected `int`, got `str` - at `$.max_tokens`"),
        ({"max_token": 5}, "unknown field `max_token`"),
        ({"scorer": "fuzzy"}, "Invalid enum value 'fuzzy' - at `$.scorer`"),
        ({"id": " "}, "`id` is empty"),
        ({"stratum": ""}, "`stratum` is empty"),
        ({"stop": [""]}, "`stop` has an empty text"),
        ({"expected": 2}, "the scorer 'exact' needs a text"),
        ({"scorer": "number"}, "the scorer 'number' needs a number"),
        ({"scorer": "number", "expected": True}, "the scorer 'number' needs a number"),
        ({"scorer": "number", "expected": 1, "tolerance": -1}, "`tolerance` is -1"),
        ({"tolerance": 1}, "`tolerance` is only for the scorer 'number'"),
        ({"rubric": "be kind"}, "`rubric` is only for the scorer 'judge'"),
        ({"choices": ["a", "b"]}, "`choices` is only for the scorer 'choice'"),
        ({"scorer": "choice", "choices": ["2"]}, "two or more different texts"),
        ({"scorer": "choice", "choices": ["2", "2"]}, "two or more different texts"),
        ({"scorer": "choice", "choices": ["3", "4"]}, "it must be one of `choices`"),
        ({"scorer": "contains", "expected": []}, "a text or a list of texts"),
        ({"scorer": "contains", "expected": ["a", ""]}, "a text or a list of texts"),
        ({"scorer": "regex", "expected": "("}, "no regular expression"),
    ],
)
def test_a_task_that_cannot_be_used_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = written(tmp_path / "t.jsonl", GOOD, {**GOOD, "id": "b", **changes})
    with pytest.raises(TaskFileError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["id", "expected", "scorer"])
def test_a_key_that_is_missing_is_named(tmp_path: Path, key: str) -> None:
    path = written(tmp_path / "t.jsonl", {name: value for name, value in GOOD.items() if name != key})
    with pytest.raises(TaskFileError, match=rf":1: .*missing required field `{key}`"):
        load(path)


def test_what_is_no_json_no_object_or_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskFileError, match=r":2: this line is no JSON object"):
        load(written(tmp_path / "t.jsonl", GOOD, "{"))
    with pytest.raises(TaskFileError, match=r":1: Expected `object`"):
        load(written(tmp_path / "t.jsonl", "[]"))
    with pytest.raises(TaskFileError, match="has no task"):
        load(written(tmp_path / "t.jsonl", ""))


def test_an_id_stands_once(tmp_path: Path) -> None:
    with pytest.raises(TaskFileError, match=r":3: `id` 'a' is that of line 1; ids are unique"):
        load(written(tmp_path / "t.jsonl", GOOD, {**GOOD, "id": "b"}, GOOD))
