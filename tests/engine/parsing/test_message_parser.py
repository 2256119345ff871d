"""Every text is fed whole, character by character, and in random pieces: what comes out must be the same."""

import random

import pytest

from servery.engine.parsing.format import REASONING_FORMATS, TOOL_FORMATS
from servery.engine.parsing.message_parser import MessageParser
from servery.engine.parsing.piece import Arguments, CallStart, Content, Piece, Reasoning, joined

THINK = REASONING_FORMATS["think"]
NAMES = frozenset({"add", "get_weather", "now"})


def parse(pieces: list[str], parser: MessageParser) -> list[Piece]:
    return joined([piece for text in pieces for piece in parser.feed(text)] + parser.finish())


def cuts(text: str) -> list[list[str]]:
    draw = random.Random(text)
    at = sorted(draw.randint(0, len(text)) for _ in range(len(text) // 3))
    return [[text], list(text), [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)]]


def check(
    text: str, expected: list[Piece], tools: str | None = None, *, thinks: bool = False, begun: bool = False
) -> None:
    for pieces in cuts(text):
        parser = MessageParser(
            THINK if thinks or begun else None,
            TOOL_FORMATS[tools] if tools else None,
            names=NAMES,
            begins_in_reasoning=begun,
        )
        assert parse(pieces, parser) == expected
        assert parser.calls == sum(isinstance(piece, CallStart) for piece in expected)


ADD = [CallStart("add"), Arguments('{"a": 1, "b": 2}')]
WEATHER = [CallStart("get_weather"), Arguments('{"city": "S\\u00e3o \\"P\\" {["}')]
NOW = [CallStart("now"), Arguments("{}")]


@pytest.mark.parametrize("text", ["", "four", "  <think>x</think> {[ <tool_call> \n"])
def test_without_formats_everything_is_content_to_the_letter(text: str) -> None:
    check(text, [Content(text)] if text else [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\nhm, so\n\n</think>\n\nfour", [Reasoning("hm, so"), Content("four")]),
        ("<think></think>four", [Content("four")]),
        ("<think> a < b </thin </think> x", [Reasoning("a < b </thin"), Content("x")]),
        ("<think>never ends ", [Reasoning("never ends")]),
        ("four <think>5</think>", [Content("four <think>5</think>")]),
        (" four", [Content(" four")]),
        ("<thin", [Content("<thin")]),
    ],
)
def test_reasoning_stands_between_its_markers_at_the_beginning(text: str, expected: list[Piece]) -> None:
    check(text, expected, thinks=True)


def test_reasoning_that_the_prompt_has_begun_needs_no_marker() -> None:
    check("hm</think>four", [Reasoning("hm"), Content("four")], begun=True)
    check("\n hm", [Reasoning("hm")], begun=True)


@pytest.mark.parametrize(
    ("tools", "text", "expected"),
    [
        ("hermes", '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>', ADD),
        (
            "hermes",
            'I add.\n<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>\n<tool_call>{"arguments": {}, "name": "now"}</tool_call>',
            [Content("I add."), *ADD, *NOW],
        ),
        ("hermes", '<tool_call>{"name":"now","arguments":{}}</tool_call> done', [*NOW, Content("done")]),
        ("hermes", '<tool_call>{"name": "now", "arguments": {}}', NOW),
        ("hermes", '<tool_call>{"name": "now", "arguments": null}</tool_call>', NOW),
        ("hermes", '<tool_call>{"name": "now"}</tool_call>', NOW),
        (
            "hermes",
            '<tool_call>{"name": "add", "arguments": "{\\"a\\": 1}"}</tool_call>',
            [CallStart("add"), Arguments('{"a": 1}')],
        ),
        (
            "hermes",
            '<tool_call>{"id": [1, {"name": "x"}], "name": "add", "n": 1e3 , "arguments": {"a": 1, "b": 2}}',
            ADD,
        ),
        ("llama3", '{"name": "get_weather", "parameters": {"city": "S\\u00e3o \\"P\\" {["}}', WEATHER),
        (
            "llama3",
            '<|python_tag|>{"name": "add", "parameters": {"a": 1, "b": 2}}; {"name": "now", "parameters": {}}',
            [*ADD, *NOW],
        ),
        (
            "mistral",
            '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1, "b": 2}}, {"name": "now", "arguments": {}}]',
            [*ADD, *NOW],
        ),
        ("mistral", '[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2}[TOOL_CALLS]now[ARGS]{}', [*ADD, *NOW]),
        ("mistral", 'So:[TOOL_CALLS] add{"a": 1, "b": 2}', [Content("So:"), *ADD]),
        ("pythonic", "[add(a=1, b=2), now()]", [*ADD, *NOW]),
        (
            "pythonic",
            '<|python_start|>[get_weather(city="São \\"P\\" {[")]<|python_end|>',
            [CallStart("get_weather"), Arguments('{"city": "São \\"P\\" {["}')],
        ),
        (
            "pythonic",
            "[add(a=[1, {'x': None}], b=(True, -2.5))]",
            [CallStart("add"), Arguments('{"a": [1, {"x": null}], "b": [true, -2.5]}')],
        ),
    ],
)
def test_calls_are_read_in_every_format(tools: str, text: str, expected: list[Piece]) -> None:
    check(text, expected, tools)


@pytest.mark.parametrize(
    ("tools", "text"),
    [
        ("hermes", "<tool_call>no json</tool_call>"),
        ("hermes", '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": 5}</tool_call>'),
        ("hermes", '<tool_call>{"arguments": [1], "name": "add"}</tool_call>'),
        ("hermes", '<tool_call>{"arguments": {}, "arguments": {}, "name": "add"}</tool_call>'),
        ("hermes", "a < b and <tool_cal"),
        ("hermes", 'say: <tool_call>\n{"nam'),
        ("hermes", "ends in space \n"),
        ("llama3", '{"answer": 42}'),
        ("llama3", '{"name": "Anna", "age": 3}'),
        ("llama3", "{"),
        ("mistral", "[TOOL_CALLS]nobody[ARGS]{}"),
        ("mistral", "[TOOL_CALLS][]"),
        ("pythonic", "[1, 2, 3]"),
        ("pythonic", "[add(a=1, a=2)]"),
        ("pythonic", "[add(a=NaN)]"),
        ("pythonic", "[add(**{})]"),
        ("pythonic", '[add("a=1")]'),
        ("pythonic", "[add(1, 2)]"),
        ("pythonic", "[add(a=b)]"),
        ("pythonic", "[]"),
        ("pythonic", "[see the list"),
        ("pythonic", " plain"),
    ],
)
def test_what_is_no_call_is_content_to_the_letter(tools: str, text: str) -> None:
    check(text, [Content(text)], tools)


def test_a_call_that_breaks_after_its_name_stays_a_call_and_the_rest_is_content() -> None:
    check(
        '<tool_call>{"name": "add", "arguments": {"a": 1}, oops}',
        [CallStart("add"), Arguments('{"a": 1}'), Content("oops}")],
        "hermes",
    )


@pytest.mark.parametrize(
    "value",
    [
        "[1, 2]",
        '"Paris"',
        "5",
        '"[1]"',
        "9" * 5000,
        '"{}{}"',
        '"{\\"a\\": \\"\\ud800\\"}"',
        "tru",
        "[" * 1500 + "]" * 1500,
    ],
    ids=lambda value: value[:9],
)
def test_arguments_that_are_no_object_are_passed_on_as_they_are_written(value: str) -> None:
    expected = [CallStart("add"), Arguments(value)]
    check(f'<tool_call>{{"name": "add", "arguments": {value}}}</tool_call>', expected, "hermes")
    check(f'{{"name": "add", "parameters": {value}', expected, "llama3")


@pytest.mark.parametrize(
    "text",
    [
        '{"arguments": %s, "name": "add"}',
        '{"name": %s}',
        '{"name": %s, "arguments": {}}',
        '{"parameters": {"a": %s}, "name": "add"}',
    ],
)
def test_what_is_nested_too_deep_before_a_name_is_no_call(text: str) -> None:
    nested = text % ("[" * 1500 + "]" * 1500)
    check(f"<tool_call>{nested}</tool_call>", [Content(f"<tool_call>{nested}</tool_call>")], "hermes")
    check(nested, [Content(nested)], "llama3")


@pytest.mark.parametrize("rest", ['"arguments": {"b": 2}}', '"name": "now"}', '"bad \\x": 1}', '"no colon" 5}'])
def test_what_comes_after_arguments_and_is_none_is_content(rest: str) -> None:
    expected = [CallStart("add"), Arguments('{"a": 1}'), Content(f"{rest}</tool_call>")]
    check(f'<tool_call>{{"name": "add", "arguments": {{"a": 1}}, {rest}</tool_call>', expected, "hermes")


def test_arguments_that_are_null_are_none_yet() -> None:
    text = '<tool_call>{"name": "add", "parameters": null, "arguments": {"a": 1, "b": 2}}</tool_call>'
    check(text, ADD, "hermes")


@pytest.mark.parametrize("rest", ["oops]", "now(", "add('", "[1]", "now(a='\\ud800')]"])
def test_what_comes_after_a_python_call_and_is_none_is_content(rest: str) -> None:
    check(f"[add(a=1, b=2), {rest}", [*ADD, Content(rest)], "pythonic")


def test_a_call_cut_short_keeps_the_arguments_so_far() -> None:
    check('<tool_call>{"name": "add", "arguments": {"a": [1, "', [CallStart("add"), Arguments('{"a": [1, "')], "hermes")


def test_after_a_call_comes_something_that_is_none() -> None:
    text = '<tool_call>{"name": "now", "arguments": {}}</tool_call><tool_call>{"name": "x"}</tool_call>'
    check(text, [*NOW, Content('<tool_call>{"name": "x"}</tool_call>')], "hermes")


def test_reasoning_comes_before_calls() -> None:
    text = '<think>use <tool_call>?</think>\n{"name": "now", "parameters": {}}'
    check(text, [Reasoning("use <tool_call>?"), *NOW], "llama3", thinks=True)


def test_arguments_come_as_they_are_written() -> None:
    parser = MessageParser(None, TOOL_FORMATS["hermes"], names=NAMES)

    assert parser.feed('<tool_call>{"name": "add", "arguments": {"a"') == [CallStart("add"), Arguments('{"a"')]
    assert parser.feed(": 1, ") == [Arguments(": 1, ")]
    assert parser.feed('"b": 2}}</tool_call>') == [Arguments('"b": 2}')]
