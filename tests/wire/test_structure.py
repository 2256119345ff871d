"""What an answer must look like, in all the ways that requests say so."""

import json
from typing import Any

import pytest

from servery.wire.chat import decode_chat
from servery.wire.completions import decode_completion
from servery.wire.errors import ApiError
from servery.wire.structure import Wanted

SCHEMA = {"type": "object", "properties": {"b": {}, "a": {}}}


def wanted(**fields: Any) -> Wanted | None:
    """The same for both kinds of requests."""
    chat = decode_chat(json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}], **fields}).encode())
    completion = decode_completion(json.dumps({"model": "m", "prompt": "x", **fields}).encode())
    assert chat.wanted_structure == completion.wanted_structure
    return chat.wanted_structure


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Wanted("response_format", "json_object", None)),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
                }
            },
            Wanted("response_format.json_schema.schema", "json_schema", SCHEMA, strict=True),
        ),
        ({"structured_outputs": {"json": SCHEMA}}, Wanted("structured_outputs.json", "json_schema", SCHEMA)),
        ({"structured_outputs": {"json": "{}"}}, Wanted("structured_outputs.json", "json_schema", {})),
        ({"structured_outputs": {"regex": "a+"}}, Wanted("structured_outputs.regex", "regex", "a+")),
        ({"structured_outputs": {"json_object": True}}, Wanted("structured_outputs.json_object", "json_object", True)),
        ({"guided_json": json.dumps(SCHEMA)}, Wanted("guided_json", "json_schema", SCHEMA)),
        ({"guided_regex": "a+"}, Wanted("guided_regex", "regex", "a+")),
        ({"guided_choice": ["a", "b"]}, Wanted("guided_choice", "choice", ["a", "b"])),
        ({"guided_grammar": "start: /a/"}, Wanted("guided_grammar", "grammar", "start: /a/")),
    ],
)
def test_every_way_says_the_same(fields: dict[str, Any], expected: Wanted | None) -> None:
    assert wanted(**fields) == expected


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "invalid_value"),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
            "structured_outputs.regex",
            "invalid_value",
        ),
        ({"structured_outputs": {}}, "structured_outputs", "invalid_value"),
        ({"structured_outputs": {"xml": "a"}}, "structured_outputs.xml", "unknown_parameter"),
        ({"structured_outputs": {"json": "["}}, "structured_outputs.json", "invalid_value"),
        ({"guided_json": "[]"}, "guided_json", "invalid_value"),
        ({"guided_choice": "a"}, "guided_choice", "invalid_type"),
    ],
)
def test_what_is_asked_for_wrongly_is_refused_by_name(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        wanted(**fields)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"type": "json", "value": SCHEMA}, Wanted("response_format.value", "json_schema", SCHEMA)),
        ({"type": "json", "value": "{}"}, Wanted("response_format.value", "json_schema", {})),
        ({"type": "json_object", "value": SCHEMA}, Wanted("response_format.value", "json_schema", SCHEMA)),
        ({"type": "regex", "value": "a+"}, Wanted("response_format.value", "regex", "a+")),
        (
            {"type": "json_schema", "value": {"schema": SCHEMA}},
            Wanted("response_format.value.schema", "json_schema", SCHEMA),
        ),
    ],
)
def test_tgi_s_forms_mean_the_same(given: dict[str, Any], expected: Wanted) -> None:
    assert wanted(response_format=given) == expected


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"type": "json"}, "response_format.value"),
        ({"type": "json", "value": "{"}, "response_format.value"),
        ({"type": "regex", "value": 3}, "response_format.value"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}, "value": {"schema": {}}},
            "response_format.json_schema",
        ),
    ],
)
def test_a_form_without_its_value_is_refused_by_name(given: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        wanted(response_format=given)
    assert (caught.value.status, caught.value.param) == (400, param)
