"""Every kind of tokenizer, as grammars see it."""

import json
import random
from typing import Any

import llguidance
import pytest

from servery.engine import constraint
from servery.engine.structure.follower import Follower
from servery.engine.structure.grammar import grammar_text
from servery.engine.structure.vocabulary import Vocabulary
from servery.engine.tokenizer import Tokenizer
from tests.engine import vocabularies
from tests.engine.structure.walk import write

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "the capital": {"enum": ["Paris is", " France"]},
        "n": {"type": "integer", "maximum": 99, "minimum": 0},
    },
    "required": ["the capital", "n"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_documents_can_be_written_with_any_tokenizer_that_has_all_bytes(kind: str) -> None:
    tokenizer = Tokenizer(vocabularies.KINDS[kind]())
    vocabulary = Vocabulary(tokenizer, tokenizer.vocab_size + 3, {0})
    for seed in range(5):
        document = json.loads(write(constraint.json_schema(SCHEMA), vocabulary, random.Random(seed)))
        assert set(document) == {"the capital", "n"}


def test_words_can_be_written_with_a_tokenizer_of_words() -> None:
    tokenizer = Tokenizer(vocabularies.metaspace())
    vocabulary = Vocabulary(tokenizer, tokenizer.vocab_size, {0})
    wanted = constraint.choice(["the capital", "Paris is"])
    assert {write(wanted, vocabulary, random.Random(seed)) for seed in range(8)} == {"the capital", "Paris is"}


@pytest.mark.parametrize("kind", vocabularies.KINDS)
@pytest.mark.parametrize("text", ["capital of France", " Paris", '"name": ', "{", "é"])
def test_the_middle_of_a_text_is_cut_without_a_space_of_its_own(kind: str, text: str) -> None:
    tokenizer = Tokenizer(vocabularies.KINDS[kind]())
    vocabulary = Vocabulary(tokenizer, tokenizer.vocab_size, {0})
    cut = vocabulary.cut(text)
    assert b"".join(map(tokenizer.token_bytes, cut)).decode() in (text, "")


@pytest.mark.parametrize("kind", vocabularies.KINDS)
def test_what_is_forced_is_a_beginning_of_the_only_text(kind: str) -> None:
    tokenizer = Tokenizer(vocabularies.KINDS[kind]())
    vocabulary = Vocabulary(tokenizer, tokenizer.vocab_size, {0})
    only = constraint.choice(["the capital of France is Paris"])
    start = llguidance.LLMatcher(vocabulary.compiled, grammar_text(only), log_level=0)
    follower = Follower(only, start, vocabulary, prompt_len=0)
    forced = follower.forced(32)
    text = b"".join(map(tokenizer.token_bytes, forced)).decode()
    assert "the capital of France is Paris".startswith(text)
    assert forced == vocabulary.cut("the capital of France is Paris")[: len(forced)] != []


@pytest.mark.parametrize("text", ["a<|im_end|>b", "<|im_end|>"])
def test_the_name_of_a_control_token_can_be_written_as_a_text(text: str) -> None:
    tokenizer = Tokenizer(vocabularies.byte_level())
    vocabulary = Vocabulary(tokenizer, tokenizer.vocab_size, {tokenizer.token_id("<|im_end|>") or 0})
    assert vocabulary.cut(text) == []
    assert write(constraint.choice([text]), vocabulary, random.Random(1)) == text
