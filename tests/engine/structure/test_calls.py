"""Answers that must be tool calls: whatever is written, the parser finds calls, and their arguments validate."""

import json
import random
import re
from collections.abc import Iterable
from typing import Any

import jsonschema
import llguidance
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from servery.engine.errors import InvalidRequest
from servery.engine.parsing.format import TOOL_FORMATS, ToolFormat
from servery.engine.parsing.message_parser import MessageParser
from servery.engine.parsing.piece import Arguments, CallStart, Content, joined
from servery.engine.structure.calls import Function, Otherwise, calls_constraint
from servery.engine.structure.grammar import check_constraint, grammar_text
from servery.engine.structure.vocabulary import Vocabulary
from servery.engine.tokenizer import Tokenizer
from tests.engine import vocabularies
from tests.engine.structure.schemas import SCHEMAS as SCHEMAS_OF_VALUES
from tests.engine.structure.walk import Endless, write

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
NESTED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "a": {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
        "b": {"anyOf": [{"type": "boolean"}, {"const": "x\n"}]},
        "c": {"type": "array", "items": {"type": "string", "maxLength": 2}, "maxItems": 2},
        "from": {"type": "boolean"},
        "is-short": {"type": "object", "properties": {"d": {"type": "boolean"}}, "additionalProperties": False},
        "e": {"$ref": "#/properties/a"},
    },
    "required": ["b", "from"],
    "additionalProperties": False,
}
TREE: dict[str, Any] = {
    "type": "object",
    "properties": {"left": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}, "n": {"enum": [1, 2]}},
    "required": ["n"],
    "additionalProperties": False,
}
NOTHING = {"properties": {}, "additionalProperties": False}
SCHEMAS = {"get_weather": WEATHER, "now": NOTHING, "nested-1": NESTED, "tree": TREE}
FUNCTIONS = [Function(name, schema) for name, schema in SCHEMAS.items()]


def vocabulary(*special: str, added: tuple[str, ...] = ()) -> Vocabulary:
    backend = vocabularies.byte_level()
    backend.add_special_tokens(list(special))
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in added])
    tokenizer = Tokenizer(backend)
    return Vocabulary(tokenizer, tokenizer.vocab_size, {tokenizer.token_id("<|im_end|>") or 0})


PLAIN = vocabulary()
CASES = [
    pytest.param("hermes", PLAIN, id="hermes"),
    pytest.param("hermes", vocabulary("<tool_call>", "</tool_call>"), id="hermes, special"),
    pytest.param("hermes", vocabulary(added=("<tool_call>", "</tool_call>")), id="hermes, added"),
    pytest.param("llama3", vocabulary("<|python_tag|>"), id="llama3"),
    pytest.param("mistral", PLAIN, id="mistral"),
    pytest.param("mistral", vocabulary("[TOOL_CALLS]"), id="mistral, special"),
    pytest.param("mistral", vocabulary("[TOOL_CALLS]", "[ARGS]"), id="mistral, named"),
    pytest.param("pythonic", PLAIN, id="pythonic"),
]


def parsed(text: str, notation: ToolFormat, names: Iterable[str] = SCHEMAS) -> tuple[str, list[tuple[str, Any]]]:
    """The content and the calls of an answer."""
    parser = MessageParser(None, notation, names=frozenset(names))
    pieces = joined([*parser.feed(text), *parser.finish()])
    starts = [piece.name for piece in pieces if isinstance(piece, CallStart)]
    arguments = [json.loads(piece.text) for piece in pieces if isinstance(piece, Arguments)]
    content = "".join(piece.text for piece in pieces if isinstance(piece, Content))
    return content, list(zip(starts, arguments, strict=True))


@pytest.mark.parametrize(("name", "known"), CASES)
def test_whatever_is_written_is_calls(name: str, known: Vocabulary) -> None:
    notation = TOOL_FORMATS[name]
    wanted = calls_constraint(FUNCTIONS, notation, known.tokenizer.added_names)
    check_constraint(wanted)
    seen = set()
    for seed in range(20):
        text = write(wanted, known, random.Random(seed))
        content, calls = parsed(text, notation)
        assert (content, bool(calls)) == ("", True), text
        for called, arguments in calls:
            jsonschema.validate(arguments, SCHEMAS[called])
            seen.add(called)
    assert seen == SCHEMAS.keys()


@pytest.mark.parametrize(("name", "known"), CASES)
def test_at_most_so_many_calls(name: str, known: Vocabulary) -> None:
    functions = [Function("now"), Function("then", NOTHING)]
    numbers = set()
    for most in (1, 2):
        wanted = calls_constraint(functions, TOOL_FORMATS[name], known.tokenizer.added_names, most=most)
        for seed in range(10):
            text = write(wanted, known, random.Random(seed))
            _, calls = parsed(text, TOOL_FORMATS[name], ["now", "then"])
            assert len(calls) <= most
            numbers.add(len(calls))
    assert numbers == {1, 2}


BEGINNINGS = {
    "hermes": ["So: <tool_call>", "<tool_call>"],
    "llama3": ["{", " \n{", "<|python_tag|>{"],
    "mistral": ["So: [TOOL_CALLS]", "[TOOL_CALLS]"],
    "pythonic": ["[", "\n["],
}


@pytest.mark.parametrize(("name", "known"), CASES)
def test_what_begins_as_a_call_is_one_that_is_kept_to(name: str, known: Vocabulary) -> None:
    notation = TOOL_FORMATS[name]
    wanted = calls_constraint(FUNCTIONS, notation, known.tokenizer.added_names, otherwise=Otherwise())
    check_constraint(wanted)
    called_by = set()
    for begun in ["", *BEGINNINGS[name]]:
        first = known.tokenizer.encode(begun, add_special_tokens=False)
        for seed in range(8):
            text = write(wanted, known, random.Random(seed), first=first)
            content, calls = parsed(text, notation)
            assert content == text if not calls else content in ("", "So:"), text
            for called, arguments in calls:
                jsonschema.validate(arguments, SCHEMAS[called])
            assert calls or not begun, text
            called_by |= {begun} if calls else set()
    assert called_by == {*BEGINNINGS[name]}


@pytest.mark.parametrize(("name", "known"), CASES)
def test_the_marker_of_a_call_cannot_be_spelled_to_get_around_it(name: str, known: Vocabulary) -> None:
    """A parser looks at the text: a marker that is a token must not come as the text of several."""
    notation = TOOL_FORMATS[name]
    wanted = calls_constraint(
        [Function("now")], notation, known.tokenizer.added_names, otherwise=Otherwise(reserved=("<r>",))
    )
    for text in (notation.begin or f" {notation.lead or '['}", "" if notation.begin else "\n<r>"):
        spelled = [token for char in text for token in known.cut(char)]
        assert known.tokenizer.decode(spelled) == text
        matcher = llguidance.LLMatcher(known.compiled, grammar_text(wanted), log_level=0)
        taken = matcher.try_consume_tokens(spelled)
        if text == notation.begin and text not in known.tokenizer.added_names:
            assert taken == len(spelled)  # it is how the marker is written
            assert not matcher.is_accepting()
        elif text and not text.endswith("["):
            assert taken < len(spelled)


@pytest.mark.parametrize(("name", "known"), CASES)
def test_a_document_or_calls(name: str, known: Vocabulary) -> None:
    document = {
        "type": "object",
        "properties": {"x": {"enum": [1, 2]}},
        "required": ["x"],
        "additionalProperties": False,
    }
    wanted = calls_constraint(
        [Function("now")],
        TOOL_FORMATS[name],
        known.tokenizer.added_names,
        most=1,
        otherwise=Otherwise(document=document),
    )
    check_constraint(wanted)
    seen = set()
    for seed in range(30):
        content, calls = parsed(write(wanted, known, random.Random(seed)), TOOL_FORMATS[name], ["now"])
        seen.add(bool(calls))
        if not calls:
            jsonschema.validate(json.loads(content), document)
    assert seen == {True, False}


NAMES = [
    "a\nb",
    'q"u',
    "back\\slash",
    "😀é",
    "a\x01b",
    "%json {",
    "<|im_end|>",
    "a::=b",
    "</tool_call>",
    "  pad ",
    "{",
    "/",
    ";",
]


@pytest.mark.parametrize(("name", "known"), CASES)
def test_functions_may_have_any_name_that_can_be_told_from_what_surrounds_it(name: str, known: Vocabulary) -> None:
    called = 0
    for function in NAMES:
        try:
            wanted = calls_constraint([Function(function)], TOOL_FORMATS[name], known.tokenizer.added_names, most=1)
        except InvalidRequest:
            continue
        text = write(wanted, known, random.Random(1))
        assert parsed(text, TOOL_FORMATS[name], [function]) == ("", [(function, {})])
        called += 1
    assert called == len(NAMES) or name in ("mistral", "pythonic")


@settings(max_examples=25, deadline=None, derandomize=True)
@given(schema=SCHEMAS_OF_VALUES, seed=st.integers(0, 2**31), case=st.sampled_from([case.values for case in CASES]))
def test_arguments_of_any_schema_validate(schema: Any, seed: int, case: tuple[str, Vocabulary]) -> None:
    known, notation = case[1], TOOL_FORMATS[case[0]]
    parameters = {"properties": {"one": schema, "two": schema}, "required": ["two"], "additionalProperties": False}
    try:
        wanted = calls_constraint([Function("f", parameters)], notation, known.tokenizer.added_names)
        check_constraint(wanted)
    except InvalidRequest:
        return  # what cannot be enforced is refused
    try:
        text = write(wanted, known, random.Random(seed))
    except Endless:
        return  # nothing can be said of it
    content, calls = parsed(text, notation, ["f"])
    assert (content, bool(calls)) == ("", True)
    for _, arguments in calls:
        jsonschema.Draft202012Validator({"type": "object", **parameters}).validate(arguments)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (Function("f", {"type": "string"}), "its 'type' is \"string\"; arguments are an object"),
        (Function("get weather", {}), 'the function "get weather" cannot be called as this model writes calls'),
        (Function("f", {"properties": {"a b": {}}}), 'the argument "a b" cannot be called as this model writes calls'),
        (Function("f", {"properties": {"a": False}}), 'no value can be given for the argument "a"; leave it out'),
        (Function("f", {"minProperties": 1}), "'minProperties' beside 'properties' cannot be enforced where calls"),
    ],
)
def test_what_cannot_be_written_is_refused(function: Function, told: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(told)):
        calls_constraint([function], TOOL_FORMATS["pythonic"], {})


def test_an_argument_of_any_kind_can_be_written_as_in_python() -> None:
    check_constraint(calls_constraint([Function("f", {"properties": {"a": True}})], TOOL_FORMATS["pythonic"], {}))


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


def test_what_is_not_kept_to_is_called_with_any_object() -> None:
    assert Function("f", {"not": {}}, is_kept_to=False).schema == {"type": "object"}
    assert Function("f").schema == {"type": "object", "properties": {}, "additionalProperties": False}
