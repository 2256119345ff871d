"""What an answer must look like: OpenAI's `response_format`, in TGI's forms too, and vLLM's `structured_outputs`."""

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from servery.wire.errors import invalid, unsupported
from servery.wire.names import check_name

_FORMS = ("json", "regex", "choice", "grammar", "json_object")
_UNSUPPORTED = {  # 'disable_fallback' goes without saying: what cannot be enforced is refused
    "disable_any_whitespace": "the model may put white space into JSON; give a 'regex' that has none.",
    "disable_additional_properties": "say 'additionalProperties': false in the schema.",
    "whitespace_pattern": "give the whole answer's form as 'regex'.",
    "structural_tag": "give the answer's form as 'regex' or 'grammar'.",
}


class TextFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """The answer is free."""


class JsonObjectFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_object"):
    """The answer is a JSON object. That some message says so, as OpenAI wants it, is not asked for here.

    With a `value`, as TGI has it, that is a schema.
    """

    value: dict[str, Any] | str | None = None


class NamedSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A JSON schema; `strict` refuses formats that cannot be enforced, which otherwise are annotations."""

    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class TgiSchema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A JSON schema in TGI's form; its name changes nothing."""

    schema: dict[str, Any]
    name: str | None = None


class JsonSchemaFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """The answer is a JSON document that a schema allows."""

    json_schema: NamedSchema | None = None
    value: TgiSchema | None = None

    @property
    def named(self) -> NamedSchema:
        """The schema, by either name; raises `ApiError` unless there is exactly one."""
        if (self.json_schema is None) == (self.value is None):
            missing = "Missing required parameter" if self.json_schema is None else "Give one of it and 'value'"
            param = "response_format.json_schema"
            raise invalid(f"{missing}: '{param}'.", param, "missing_required_parameter")
        if self.json_schema is not None:
            return self.json_schema
        assert self.value is not None
        return NamedSchema(self.value.name or "answer", self.value.schema)


class JsonFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json"):
    """TGI's: the answer is a JSON document that a schema allows, which is an object or its text."""

    value: dict[str, Any] | str


class RegexFormat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="regex"):
    """TGI's: the answer is what a regular expression matches."""

    value: str


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat | JsonFormat | RegexFormat


class StructuredOutputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """vLLM's field: exactly one of the first five; the others are taken where they ask for nothing."""

    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    disable_fallback: bool | None = None
    disable_any_whitespace: bool | None = None
    disable_additional_properties: bool | None = None
    whitespace_pattern: str | None = None
    structural_tag: str | None = None

    def check(self) -> None:
        """Raise `ApiError` for what this server cannot do."""
        for name, why in _UNSUPPORTED.items():
            if getattr(self, name) not in (None, False):
                raise unsupported(f"structured_outputs.{name}", why)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A form that the answer must have: what is asked for, in which field, and how.

    `kind` is "json_schema", "json_object", "regex", "choice" or "grammar".
    """

    param: str
    kind: str
    value: Any
    strict: bool = False


class AsksForStructure(Protocol):
    """A request with these fields."""

    @property
    def response_format(self) -> ResponseFormat | None: ...  # noqa: D102
    @property
    def structured_outputs(self) -> StructuredOutputs | None: ...  # noqa: D102
    @property
    def guided_json(self) -> dict[str, Any] | str | None: ...  # noqa: D102
    @property
    def guided_regex(self) -> str | None: ...  # noqa: D102
    @property
    def guided_choice(self) -> list[str] | None: ...  # noqa: D102
    @property
    def guided_grammar(self) -> str | None: ...  # noqa: D102


def wanted_structure(request: AsksForStructure) -> Wanted | None:
    """The form that a request asks for; raises `ApiError` when it asks for more than one, or a schema is no schema."""
    found = [
        *_of_response_format(request.response_format),
        *_of_fields("structured_outputs.", request.structured_outputs),
    ]
    older = ("json", "regex", "choice", "grammar")
    values = {name: getattr(request, f"guided_{name}") for name in older}
    found += [_wanted(f"guided_{name}", name, value) for name, value in values.items() if value is not None]
    if len(found) > 1:
        message = (
            f"'{found[0].param}' and '{found[1].param}' both say what the answer must look like; give one of them."
        )
        raise invalid(message, found[1].param)
    if request.structured_outputs is not None and not found:
        message = "'structured_outputs' is empty; give one of 'json', 'regex', 'choice', 'grammar' and 'json_object'."
        raise invalid(message, "structured_outputs")
    return found[0] if found else None


def _of_response_format(asked: ResponseFormat | None) -> list[Wanted]:
    if isinstance(asked, JsonSchemaFormat):
        param = "value.schema" if asked.json_schema is None else "json_schema.schema"
        schema = asked.named
        if asked.value is None:
            check_name("response_format.json_schema.name", schema.name)
        return [Wanted(f"response_format.{param}", "json_schema", schema.schema, bool(schema.strict))]
    if isinstance(asked, RegexFormat):
        return [Wanted("response_format.value", "regex", asked.value)]
    if isinstance(asked, JsonFormat | JsonObjectFormat) and asked.value is not None:
        return [Wanted("response_format.value", "json_schema", _schema("response_format.value", asked.value))]
    return [Wanted("response_format", "json_object", None)] if isinstance(asked, JsonObjectFormat) else []


def _of_fields(prefix: str, asked: StructuredOutputs | None) -> list[Wanted]:
    if asked is None:
        return []
    asked.check()
    values = {name: getattr(asked, name) for name in _FORMS}
    return [_wanted(f"{prefix}{name}", name, value) for name, value in values.items() if value not in (None, False)]


def _wanted(param: str, name: str, value: Any) -> Wanted:
    if name == "json":
        return Wanted(param, "json_schema", _schema(param, value))
    return Wanted(param, name, value)


def _schema(param: str, value: dict[str, Any] | str) -> dict[str, Any]:
    """VLLM takes a schema as an object or as its text."""
    if isinstance(value, dict):
        return value
    try:
        schema: dict[str, Any] = msgspec.json.decode(value, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        raise invalid(f"'{param}' must be a JSON schema: an object, or its text.", param) from None
    return schema
