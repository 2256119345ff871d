"""Answers that must be tool calls: whatever is written, the parser finds calls, and their arguments validate."""

import json
import random
from typing import Any

import jsonschema
import pytest

from servery.engine.errors import InvalidRequest
from servery.engine.parsing.format import TOOL_FORMATS
from servery.engine.parsing.message_parser import MessageParser
from servery.engine.parsing.piece import Arguments, CallStart, joined
from servery.engine.structure.calls import Function, calls_constraint
from servery.engine.structure.grammar import check_constraint
from servery.engine.structure.vocabulary import Vocabulary
from servery.engine.tokenizer import Tokenizer
from tests.engine import vocabularies
from tests.engine.structure.walk import write

WEATHER: dict[str, Any] = {
    "properties": {
        "city": {"type": "string", "maxLength": 6},
        "days": {"$ref": "#/$defs/days"},
        "unit": {"enum": ["C", 'F"']},
    },
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"days": {"type": "integer", "minimum": 0, "maximum": 9}},
}
SIMPLE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "a": {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
        "b": {"anyOf": [{"type": "boolean"}, {"const": "x\n"}]},
        "c": {"type": "array", "items": {"type": "string", "maxLength": 2}, "maxItems": 2},
    },
    "required": ["b"],
    "additionalProperties": False,
}
SCHEMAS = {"get_weather": WEATHER, "now": {"properties": {}, "additionalProperties": False}, "simple": SIMPLE}


def vocabulary(*special: str) -> Vocabulary:
    backend = vocabularies.byte_level()
    backend.add_special_tokens(list(special))
    tokenizer = Tokenizer(backend)
    return Vocabulary(tokenizer, tokenizer.vocab_size, {tokenizer.token_id("<|im_end|>") or 0})


CASES = [
    ("hermes", (), ["get_weather", "now"]),
    ("hermes", ("<tool_call>", "</tool_call>"), ["get_weather", "now"]),
    ("llama3", ("<|python_tag|>",), ["get_weather", "now", "simple"]),
    ("mistral", ("[TOOL_CALLS]",), ["get_weather", "now"]),
    ("mistral", ("[TOOL_CALLS]", "[ARGS]"), ["get_weather", "now"]),
    ("pythonic", (), ["now", "simple"]),
]


@pytest.mark.parametrize(("name", "special", "names"), CASES)
def test_whatever_is_written_is_calls(name: str, special: tuple[str, ...], names: list[str]) -> None:
    known = vocabulary(*special)
    functions = [Function(one, SCHEMAS[one]) for one in names]
    wanted = calls_constraint(functions, TOOL_FORMATS[name], known.special)
    check_constraint(wanted)
    for seed in range(20):
        text = write(wanted, known, random.Random(seed))
        parser = MessageParser(None, TOOL_FORMATS[name], names=frozenset(names))
        pieces = joined([*parser.feed(text), *parser.finish()])
        assert {type(piece) for piece in pieces} <= {CallStart, Arguments}, text
        starts = [piece.name for piece in pieces if isinstance(piece, CallStart)]
        arguments = [json.loads(piece.text) for piece in pieces if isinstance(piece, Arguments)]
        assert len(starts) == len(arguments) > 0, text
        for called, given in zip(starts, arguments, strict=True):
            jsonschema.validate(given, SCHEMAS[called])


@pytest.mark.parametrize(("name", "special", "names"), CASES)
def test_at_most_so_many_calls(name: str, special: tuple[str, ...], names: list[str]) -> None:
    known = vocabulary(*special)
    functions = [Function(one, SCHEMAS[one]) for one in names]
    for most in (1, 2):
        wanted = calls_constraint(functions, TOOL_FORMATS[name], known.special, most=most)
        for seed in range(8):
            parser = MessageParser(None, TOOL_FORMATS[name], names=frozenset(names))
            parser.feed(write(wanted, known, random.Random(seed)))
            assert 1 <= parser.calls <= most


@pytest.mark.parametrize(("name", "special", "names"), [case for case in CASES if case[0] in ("hermes", "mistral")])
def test_unforced_calls_come_after_any_text_and_are_kept_to(
    name: str, special: tuple[str, ...], names: list[str]
) -> None:
    known, notation = vocabulary(*special), TOOL_FORMATS[name]
    wanted = calls_constraint([Function(one, SCHEMAS[one]) for one in names], notation, known.special, is_forced=False)
    check_constraint(wanted)
    begun = known.tokenizer.encode(f"So: {notation.begin}", add_special_tokens=False)
    found = 0
    for seed in range(20):
        text = write(wanted, known, random.Random(seed), first=begun if seed % 2 else ())
        parser = MessageParser(None, notation, names=frozenset(names))
        pieces = joined([*parser.feed(text), *parser.finish()])
        if notation.begin in text:
            found += 1
            given = [json.loads(piece.text) for piece in pieces if isinstance(piece, Arguments)]
            starts = [piece.name for piece in pieces if isinstance(piece, CallStart)]
            assert len(given) == len(starts) > 0, text
            for called, arguments in zip(starts, given, strict=True):
                jsonschema.validate(arguments, SCHEMAS[called])
    assert found


def test_strict_tools_need_a_notation_with_a_marker() -> None:
    with pytest.raises(InvalidRequest, match="calls in the notation 'llama3' begin like any text"):
        calls_constraint([Function("f")], TOOL_FORMATS["llama3"], {}, is_forced=False)


def test_an_argument_that_python_writes_otherwise_is_refused() -> None:
    nested = {"properties": {"where": {"type": "object"}}}
    with pytest.raises(InvalidRequest, match="the argument 'where' cannot be enforced in Python's notation"):
        calls_constraint([Function("f", nested)], TOOL_FORMATS["pythonic"], {})


@pytest.mark.parametrize(
    "open_", [{}, {"properties": {"a": {}}, "required": ["b"]}, {"properties": {}, "patternProperties": {"x": {}}},
              {"properties": {}, "additionalProperties": {"type": "integer"}}, {"properties": {}, "anyOf": [{}]},
              {"properties": 1}, {"properties": {}, "required": 1}, {"properties": {}, "required": [[]]}],
    ids=str,
)  # fmt: skip
def test_only_arguments_that_are_listed_are_written_unless_others_are_spoken_of(open_: dict[str, Any]) -> None:
    listed = {"properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert Function("f", listed).schema == {"type": "object", **listed, "additionalProperties": False}
    assert Function("f", {"properties": {}}).schema["additionalProperties"] is False
    assert Function("f", open_).schema == {"type": "object", **open_}


def test_arguments_that_cannot_be_enforced_are_refused() -> None:
    wanted = calls_constraint([Function("f", {"not": {}})], TOOL_FORMATS["hermes"], {})
    with pytest.raises(InvalidRequest, match="keywords that cannot be enforced: 'not'"):
        check_constraint(wanted)
