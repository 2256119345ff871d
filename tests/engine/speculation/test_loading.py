"""A draft model that cannot serve is refused before anything is loaded, with what is wrong and what to do."""

import json
from pathlib import Path

import pytest

from servery.engine.config import EngineConfig
from servery.engine.core import EngineCore
from servery.engine.errors import LoadError
from servery.engine.speculation.loading import check_same_tokens
from tests.engine import tiny_model
from tests.engine.speculation.drafting import core_of


def test_another_tokenizer_of_the_same_size_is_refused(tiny: Path, tmp_path: Path) -> None:
    other = tiny_model.save(tmp_path / "other")
    file = other / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    file.write_text(json.dumps(tokenizer))
    first = min(vocab["a"], vocab["b"])
    with pytest.raises(LoadError) as raised:
        core_of(tiny, draft=other)
    assert str(raised.value) == (
        f"the draft model {other} has another tokenizer than {tiny}: 2 of {len(vocab)} token ids stand for something "
        f"else; {first} is 'b' there and 'a' here. Drafts are token ids: choose a draft model of the same family."
    )


def test_a_token_that_one_side_lacks_is_told(tiny: Path, tmp_path: Path) -> None:
    other = tiny_model.save(tmp_path / "other")
    file = other / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": 400, "content": "<|more|>"})
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(LoadError, match=r"1 of \d+ token ids .*; 301 is '<\|more\|>' there and nothing here"):
        check_same_tokens(tiny, other)


def test_a_folder_without_a_model_is_named(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"tokenizer\.json"):
        core_of(tiny, draft=tmp_path)


def test_its_memory_is_planned_with_the_targets(tiny: Path) -> None:
    plain, drafting = core_of(tiny), core_of(tiny, draft=tiny)
    assert (plain.info.draft_weight_bytes, plain.info.draft_kv_bytes) == (0, 0)
    assert 0.9 < drafting.info.draft_weight_bytes / drafting.info.weight_bytes <= 1.0
    assert drafting.info.draft_kv_bytes == drafting.info.kv_bytes
    limit = plain.info.kv_bytes
    both = core_of(tiny, draft=tiny, kv_memory_bytes=limit).info
    assert both.num_blocks == plain.info.num_blocks // 2, "a block is one of each cache"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"speculate": "often"}, "speculate is 'often'; choose one of off, ngram, draft."),
        ({"speculate": "draft"}, 'speculate is "draft", but there is no draft model: name one with --draft-model.'),
        (
            {"draft_model": Path("x")},
            "there is a draft model (x), but speculate is 'off': say --speculate draft, or leave --draft-model out.",
        ),
        ({"speculate": "ngram", "max_drafts": 17}, "max_drafts is 17; it must be at most 16."),
        ({"speculate": "ngram", "max_drafts": 0}, "max_drafts is 0; it must be at least 1."),
    ],
)
def test_settings_that_make_no_sense_are_refused(tiny: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(LoadError) as raised:
        EngineConfig(model=tiny, **settings)  # type: ignore[arg-type]
    assert str(raised.value) == message


def test_nothing_is_drafted_unless_asked_for(tiny: Path) -> None:
    assert EngineCore(EngineConfig(model=tiny, threads=1))._speculator is None
