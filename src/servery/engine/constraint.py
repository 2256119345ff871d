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
MAX_BUDGET_TOKENS = 2**31


def invalid_constraint(reason: str) -> InvalidRequest:
    """A constraint that cannot be had; `reason` is a sentence about it, beginning with "it" or a place in it."""
    return InvalidRequest(f"constraint cannot be enforced: {reason}", "constraint")


class ConstraintKind(enum.Enum):
    """The language that a constraint is written in."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"  # Rust's syntax, matched in full, \d and \w of ASCII; no look-around, no back-references
    CHOICE = "choice"  # a JSON list of strings
    CALLS = "calls"  # a grammar that `calls_constraint` wrote
    ANYTHING = "anything"
    GRAMMAR = "grammar"  # Lark, as llguidance extends it


class Reasoning(msgspec.Struct, frozen=True, kw_only=True):
    """What the model may think before it gives the answer that a constraint is about: up to the text `end`.

    `begin`: the answer may begin with this text, and then it is reasoning; empty: the prompt has begun the reasoning, and
    the answer cannot end before it has. `budget` is the most tokens that it may have besides its markers: when they are
    used up, `end` is written for the model.
    """

    end: str
    begin: str = ""
    budget: int | None = None

    def __post_init__(self) -> None:
        longest = max(len(self.begin), len(self.end))
        if longest > MAX_MARKER_CHARS:
            raise invalid_constraint(
                f"it has a marker of {longest} characters; at most {MAX_MARKER_CHARS} are allowed."
            )
        if not self.end:
            raise invalid_constraint("the reasoning before it has no end marker.")
        if self.budget is not None and not 1 <= self.budget <= MAX_BUDGET_TOKENS:
            raise invalid_constraint(
                f"the budget of reasoning is {self.budget} tokens; it must be between 1 and {MAX_BUDGET_TOKENS}."
            )


class Constraint(msgspec.Struct, frozen=True, kw_only=True):
    """Every answer that ends by itself is a text of the language that `text` describes, after `reasoning` if there is any.

    Raises `InvalidRequest` for what is too large; whether `text` can be understood, `grammar.check_constraint` says.
    """

    kind: ConstraintKind
    text: str
    reasoning: Reasoning | None = None

    def __post_init__(self) -> None:
        size = len(self.text.encode())
        if size > MAX_TEXT_BYTES:
            raise invalid_constraint(f"it has {size} bytes; at most {MAX_TEXT_BYTES} are allowed.")
        if self.kind is ConstraintKind.REGEX and len(self.text) > MAX_REGEX_CHARS:
            raise invalid_constraint(f"it has {len(self.text)} characters; at most {MAX_REGEX_CHARS} are allowed.")


def anything(reasoning: Reasoning) -> Constraint:
    """The answer is free; only its reasoning has a budget."""
    return Constraint(kind=ConstraintKind.ANYTHING, text="", reasoning=reasoning)


def json_schema(schema: Mapping[str, Any], reasoning: Reasoning | None = None) -> Constraint:
    """The answer is a JSON value that `schema` (draft 2020-12) allows."""
    try:
        text = msgspec.json.encode(schema).decode()
    except RecursionError:
        raise invalid_constraint("it is nested too deeply.") from None
    return Constraint(kind=ConstraintKind.JSON_SCHEMA, text=text, reasoning=reasoning)


def json_object(reasoning: Reasoning | None = None) -> Constraint:
    """The answer is a JSON object."""
    return json_schema({"type": "object"}, reasoning)


def regex(pattern: str, reasoning: Reasoning | None = None) -> Constraint:
    """The answer matches `pattern` from its first to its last character."""
    return Constraint(kind=ConstraintKind.REGEX, text=pattern, reasoning=reasoning)


def choice(options: Sequence[str], reasoning: Reasoning | None = None) -> Constraint:
    """The answer is one of `options`; raises `InvalidRequest` if there are none, too many, or an empty one."""
    if not options:
        raise invalid_constraint("it has no options; at least one is needed.")
    if len(options) > MAX_CHOICES:
        raise invalid_constraint(f"it has {len(options)} options; at most {MAX_CHOICES} are allowed.")
    if "" in options:
        raise invalid_constraint("it has an empty option; every option needs at least one character.")
    text = msgspec.json.encode(list(options)).decode()
    return Constraint(kind=ConstraintKind.CHOICE, text=text, reasoning=reasoning)


def grammar(text: str, reasoning: Reasoning | None = None) -> Constraint:
    """The answer is a text of a context-free grammar, in Lark's syntax."""
    return Constraint(kind=ConstraintKind.GRAMMAR, text=text, reasoning=reasoning)
