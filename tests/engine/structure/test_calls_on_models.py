"""What models write that must call, at temperature 1: every call is read as one, and its arguments validate."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from servery import amuse
from servery.engine.constraint import Reasoning
from servery.engine.llm import LLM
from servery.engine.parsing.format import REASONING_FORMATS, TOOL_FORMATS
from servery.engine.parsing.message_parser import MessageParser
from servery.engine.parsing.piece import Arguments, CallStart, Content, joined
from servery.engine.request import FinishReason, SamplingParams
from servery.engine.structure.calls import Function, calls_constraint
from tests.engine import tiny_model

SCHEMAS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 12},
            "days": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 31}, "maxItems": 3},
            "is_short": {"type": "boolean"},
        },
        "required": ["city", "is_short"],
    },
    "send": {
        "type": "object",
        "properties": {
            "to": {"type": "string", "pattern": "^[a-z]{1,8}@[a-z]{1,8}\\.org$"},
            "body": {"$ref": "#/$defs/body"},
        },
        "required": ["to"],
        "additionalProperties": False,
        "$defs": {
            "body": {
                "type": "object",
                "properties": {
                    "text": {"type": ["string", "null"], "maxLength": 9},
                    "at": {"format": "ipv4", "type": "string"},
                },
                "additionalProperties": False,
            }
        },
    },
    "now": {"type": "object", "properties": {}},
}
FUNCTIONS = [Function(name, schema) for name, schema in SCHEMAS.items()]
QUESTION = [{"role": "user", "content": "What is the weather in Paris, and what time is it?"}]
MARKERS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<think>", "</think>")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LLM]:
    folder: Path = tmp_path_factory.mktemp("random")
    plain = tiny_model.save(folder / "plain", max_position_embeddings=2048)
    marked = tiny_model.save(folder / "marked", markers=MARKERS, max_position_embeddings=2048)
    return {
        "amuse": LLM(amuse.path("draft"), threads=1),
        "random": LLM(plain, threads=1, speculate="ngram"),
        "random, marked": LLM(marked, threads=1),
    }


def check_calls(llm: LLM, notation: str, *, n: int, seed: int, reasoning: Reasoning | None = None) -> int:
    """Ask for calls; returns how many there were, in answers that were not cut."""
    wanted = calls_constraint(FUNCTIONS, TOOL_FORMATS[notation], llm.tokenizer.added_names, most=3, reasoning=reasoning)
    params = SamplingParams(n=n, seed=seed, max_tokens=700, constraint=wanted)
    calls = 0
    (generation,) = llm.chat([QUESTION], params)
    for completion in generation.completions:
        if completion.finish_reason is FinishReason.LENGTH:
            continue
        text = llm.tokenizer.decode(completion.token_ids, skip_special_tokens=False).removesuffix("<|end|>")
        parser = MessageParser(
            REASONING_FORMATS["think"], TOOL_FORMATS[notation], names=frozenset(SCHEMAS),
            begins_in_reasoning=reasoning is not None,
        )  # fmt: skip
        pieces = joined([*parser.feed(text), *parser.finish()])
        assert not any(isinstance(piece, Content) for piece in pieces), text
        starts = [piece.name for piece in pieces if isinstance(piece, CallStart)]
        given = [json.loads(piece.text) for piece in pieces if isinstance(piece, Arguments)]
        assert 1 <= len(starts) <= 3, text
        for name, arguments in zip(starts, given, strict=True):
            jsonschema.validate(arguments, SCHEMAS[name], format_checker=jsonschema.FormatChecker())
        calls += len(starts)
    return calls


@pytest.mark.parametrize("notation", TOOL_FORMATS)
@pytest.mark.parametrize("model", ["amuse", "random", "random, marked"])
def test_every_forced_call_is_one_and_validates(models: dict[str, LLM], model: str, notation: str) -> None:
    assert check_calls(models[model], notation, n=4, seed=1) >= 4


@pytest.mark.parametrize("model", ["amuse", "random, marked"])
def test_calls_come_after_reasoning_that_has_a_budget(models: dict[str, LLM], model: str) -> None:
    assert check_calls(models[model], "hermes", n=4, seed=2, reasoning=Reasoning(end="</think>", budget=30)) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("notation", TOOL_FORMATS)
@pytest.mark.parametrize("model", ["amuse", "random", "random, marked"])
def test_so_are_hundreds_of_calls(models: dict[str, LLM], model: str, notation: str) -> None:
    assert sum(check_calls(models[model], notation, n=32, seed=seed) for seed in range(2)) > 60
