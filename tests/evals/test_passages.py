"""What is scored of a task or of a text, and what is left out and said so."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from servery.engine.errors import InvalidRequest
from servery.engine.tokenizer import Tokenizer
from servery.evals.errors import OptionError, TaskFileError
from servery.evals.passages import Encoder, Passages, read
from tests.engine import tiny_model

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "expected": "world", "scorer": "exact"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tiny_model.save(tmp_path_factory.mktemp("tiny"))


def passages(tiny: Path, folder: Path, *tasks: dict[str, Any], longest: int = 64, limit: int | None = None) -> Passages:
    path = folder / "t.jsonl"
    path.write_text("".join(json.dumps({"id": str(at), **one}) + "\n" for at, one in enumerate(tasks)))
    return Encoder(tiny).passages(read(path), longest, 8, limit)


def texts(tiny: Path, found: Passages) -> dict[str, list[tuple[str, str]]]:
    """(what is given, what is scored) of each passage."""
    decode = Tokenizer.load(tiny).decode
    return {
        stratum: [
            (decode(one.tokens[: one.first], skip_special_tokens=False), decode(one.tokens[one.first :], False))
            for one in of_one
        ]
        for stratum, of_one in found.strata.items()
    }


def test_scored_is_the_right_answer_with_its_end_after_the_prompt(tiny: Path, tmp_path: Path) -> None:
    prompt = {"prompt": "hello", "expected": " world", "scorer": "choice", "choices": [" world", " engine"]}
    found = passages(tiny, tmp_path, CHAT, {**prompt, "stratum": "b"}, {**CHAT, "scorer": "judge", "stratum": "b"})
    chat = ("<|user|>hello<|end|><|assistant|>", "world<|end|>")
    assert texts(tiny, found) == {"all": [chat], "b": [("hello", " world"), chat]}
    assert found.left_out == {}


def test_what_cannot_be_scored_is_left_out_and_counted(tiny: Path, tmp_path: Path) -> None:
    found = passages(
        tiny,
        tmp_path,
        {**CHAT, "expected": "w.*", "scorer": "regex"},
        {"prompt": "a", "expected": "", "scorer": "exact"},
        {**CHAT, "expected": "abcdefghijklmnopqrstuvwxyz" * 3},
        CHAT,
        {**CHAT, "expected": "x"},
        limit=1,
    )
    assert [len(of_one) for of_one in found.strata.values()] == [1]
    assert found.left_out == {
        "scorer regex: its `expected` is no answer": 1,
        "the answer has no token": 1,
        "longer than the context of 64 tokens": 1,
    }


def test_a_text_is_cut_into_windows_of_which_all_but_the_first_token_is_scored(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("abc def ghi jkl")
    tokens = Tokenizer.load(tiny).encode("abc def ghi jkl")
    found = Encoder(tiny).passages(read(path), 64, 4, None)
    assert [token for one in found.strata["all"] for token in one.tokens] == tokens[: 4 * len(found.strata["all"])]
    assert {one.first for one in found.strata["all"]} == {1}


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(b"\x89PNG\xff")
    with pytest.raises(OptionError, match=r"image\.png is no text in UTF-8 \(invalid start byte at byte 0\)"):
        read(path)


def test_a_bad_line_of_a_task_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("{}\n")
    with pytest.raises(TaskFileError, match=r"t\.jsonl:1"):
        read(tmp_path / "t.jsonl")


def test_a_chat_without_a_template_is_refused(tmp_path: Path) -> None:
    plain = tiny_model.save(tmp_path / "plain")
    (plain / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    with pytest.raises(InvalidRequest, match="'plain' has no chat template"):
        passages(plain, tmp_path, CHAT)
