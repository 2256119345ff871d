"""What an answer must look like: a value that crosses the process border and is the key of the cache of grammars."""

import enum
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from servery.engine.errors import InvalidRequest

MAX_TEXT_BYTES = 256 * 1024  # of a schema or grammar; compiling takes time and memory in proportion
MAX_REGEX_CHARS = 8192
MAX_CHOICES = 4096
MAX_MARKER_CHARS = 256


def invalid_constraint(reason: str) -> InvalidRequest:
    """A constraint that cannot be had; `reason` is a sentence about it, beginning with "it" or a place in it."""
    return InvalidRequest(f"constraint cannot be enforced: {reason}", "constraint")


class ConstraintKind(enum.Enum):
    """The language that a constraint is written in."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"  # Rust's syntax, matched in full, \d and \w of ASCII; no look-around, no back-references
    CHOICE = "choice"  # a JSON list of strings
    GRAMMAR = "grammar"  # Lark, as llguidance extends it


class Constraint(msgspec.Struct, frozen=True, kw_only=True):
    """Every answer that ends by itself is a text of the language that `text` describes.

    `begins_after`: the answer is free until the model has written this text (`"</think>"`), and cannot end before; the
    constraint begins with the token after the one that completes it. `reasoning`: the answer may begin with a text between
    these two markers, to which the constraint does not apply.
    Raises `InvalidRequest` for what is too large; whether `text` can be understood, `grammar.check_constraint` says.
    """

    kind: ConstraintKind
    text: str
    begins_after: str = ""
    reasoning: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        size = len(self.text.encode())
        if size > MAX_TEXT_BYTES:
            raise invalid_constraint(f"it has {size} bytes; at most {MAX_TEXT_BYTES} are allowed.")
        if self.kind is ConstraintKind.REGEX and len(self.text) > MAX_REGEX_CHARS:
            raise invalid_constraint(f"it has {len(self.text)} characters; at most {MAX_REGEX_CHARS} are allowed.")
        longest = max(map(len, (self.begins_after, *(self.reasoning or ()))))
        if longest > MAX_MARKER_CHARS:
            raise invalid_constraint(
                f"it has a marker of {longest} characters; at most {MAX_MARKER_CHARS} are allowed."
            )


def json_schema(
    schema: Mapping[str, Any], begins_after: str = "", reasoning: tuple[str, str] | None = None
) -> Constraint:
    """The answer is a JSON value that `schema` (draft 2020-12) allows."""
    try:
        text = msgspec.json.encode(schema).decode()
    except RecursionError:
        raise invalid_constraint("it is nested too deeply.") from None
    return Constraint(kind=ConstraintKind.JSON_SCHEMA, text=text, begins_after=begins_after, reasoning=reasoning)


def json_object(begins_after: str = "", reasoning: tuple[str, str] | None = None) -> Constraint:
    """The answer is a JSON object."""
    return json_schema({"type": "object"}, begins_after, reasoning)


def regex(pattern: str, begins_after: str = "", reasoning: tuple[str, str] | None = None) -> Constraint:
    """The answer matches `pattern` from its first to its last character."""
    return Constraint(kind=ConstraintKind.REGEX, text=pattern, begins_after=begins_after, reasoning=reasoning)


def choice(options: Sequence[str], begins_after: str = "", reasoning: tuple[str, str] | None = None) -> Constraint:
    """The answer is one of `options`; raises `InvalidRequest` if there are none, too many, or an empty one."""
    if not options:
        raise invalid_constraint("it has no options; at least one is needed.")
    if len(options) > MAX_CHOICES:
        raise invalid_constraint(f"it has {len(options)} options; at most {MAX_CHOICES} are allowed.")
    if "" in options:
        raise invalid_constraint("it has an empty option; every option needs at least one character.")
    text = msgspec.json.encode(list(options)).decode()
    return Constraint(kind=ConstraintKind.CHOICE, text=text, begins_after=begins_after, reasoning=reasoning)


def grammar(text: str, begins_after: str = "", reasoning: tuple[str, str] | None = None) -> Constraint:
    """The answer is a text of a context-free grammar, in Lark's syntax."""
    return Constraint(kind=ConstraintKind.GRAMMAR, text=text, begins_after=begins_after, reasoning=reasoning)
