"""From a constraint to a grammar that llguidance compiles, and what it says of one it cannot take.

Why llguidance: see docs/structured.md, which has the figures. Its grammars are Lark or JSON schema; a regex and a choice
become one.
"""

import json
import re
from typing import TYPE_CHECKING, Any

import llguidance
import msgspec
from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark

from servery.engine.constraint import Constraint, ConstraintKind, invalid_constraint
from servery.engine.errors import InvalidRequest
from servery.engine.structure.keywords import complaint, plain
from servery.engine.structure.schema import check_schema

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

MAX_GRAMMAR_BYTES = 64 * 1024
# Whether an intersection of n expressions is empty takes the compiler 2^n.
MAX_INTERSECTIONS = 12
MAX_REASON_CHARS = 400

# Between the parts of a JSON document: a space, or a line break and what a line is indented by. More is never needed, and
# a model that samples may get lost in it. Long escapes (\u0061) would give keys a second spelling, which the grammar takes
# for another key.
_JSON_OPTIONS: "JsonCompileOptions" = {
    "item_separator": ",",
    "key_separator": ":",
    "whitespace_flexible": True,
    "whitespace_pattern": r"\x20|\x0A[\x20\x09]{0,64}",
    "coerce_one_of": False,
    "lenient": False,
    "json_allowed_escapes": 'nrbtf\\"',
    "json_allow_general_unicode_escapes": False,
}
_AT = re.compile(r"\A(?:at )?(\d+)\((\d+)\): ")
_LEADS_NOWHERE = "NoExtensionBias"  # llguidance's name for: no token may come next, and the text is not complete
_TOO_LARGE = "too many expressions constructed"  # of what it may take to read one text
_RULE = re.compile(r"::=")
_INTERSECTION = re.compile(r'"(?:\\.|[^"\\\n])*"|(?://|#)[^\n]*|/(?:\\.|[^/\\\n])+/|(&|~(?!\s*\d))')


def check_constraint(constraint: Constraint) -> None:
    """Raise `InvalidRequest`, saying what is wrong with it and where, for a constraint that cannot be enforced.

    What depends on a model's tokens is found out when it is compiled for the model. Hostile grammars can take long, and
    recurse deeply: call it on a `DeepThread`.
    """
    text = grammar_text(constraint)
    is_error, messages = llguidance.LLMatcher.validate_grammar_with_warnings(text)
    if is_error:
        raise refusal(constraint, messages[0])


def grammar_text(constraint: Constraint) -> str:
    """The constraint as llguidance reads it; raises `InvalidRequest` for what must not even be given to it."""
    match constraint.kind:
        case ConstraintKind.JSON_SCHEMA:
            return json_grammar(constraint.text)
        case ConstraintKind.REGEX:
            # \d and \w are ASCII, as in the patterns of JSON schemas: who asks for digits does not mean those of all scripts.
            return llguidance.LLMatcher.grammar_from_regex(llguidance.regex_to_lark(constraint.text, "dw"))
        case ConstraintKind.CHOICE:
            options = msgspec.json.decode(constraint.text, type=list[str])
            return "start: " + " | ".join(map(json.dumps, dict.fromkeys(options)))
        case ConstraintKind.CALLS:
            return constraint.text
        case ConstraintKind.ANYTHING:
            return "start: /(.|\\n)*/"  # never asked
        case ConstraintKind.GRAMMAR:
            return _lark(constraint.text)


def json_grammar(text: str) -> str:
    """The grammar of a JSON schema's documents; raises `InvalidRequest` naming the keyword that cannot be enforced."""
    schema = _enforced(text)
    try:
        return llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=_JSON_OPTIONS)
    except ValueError as error:
        raise invalid_constraint(f"it cannot be read: {error}.") from None


def inline_json(text: str) -> str:
    """A JSON schema as a rule's body in a Lark grammar; raises as `json_grammar` does."""
    return "%json " + json.dumps({**_enforced(text), "x-guidance": _JSON_OPTIONS})


def _enforced(text: str) -> dict[str, Any]:
    schema = json.loads(text)
    check_schema(schema)
    return plain(schema)


def refusal(constraint: Constraint, message: str) -> InvalidRequest:
    """What llguidance says about a constraint, in the words of a client."""
    schema = json.loads(constraint.text) if constraint.kind is ConstraintKind.JSON_SCHEMA else {}
    reason = _shortened(complaint(schema, message) or _reason(constraint, message))
    return invalid_constraint(f"{reason[:1].lower()}{reason[1:].rstrip('.')}.")


def _reason(constraint: Constraint, message: str) -> str:
    first, _, rest = message.partition("\n")
    cause = re.search(r"^error: (.*)$", rest, re.MULTILINE)
    if constraint.kind is ConstraintKind.REGEX:
        inner = first.rpartition("(in regex): ")[2]
        return f"it is not a regular expression that can be enforced: {cause[1] if cause else inner}"
    if at := _AT.match(first):
        told = first[at.end() :]
        if constraint.kind is ConstraintKind.CALLS:  # nobody has seen its lines
            return told
        return f"line {at[1]}, column {at[2]}: {told}" + (f" {cause[1]}" if cause else "")
    return told_of(first)


def told_of(error: str) -> str:
    """What llguidance says of a grammar that leads nowhere, in words; anything else as it is."""
    if _TOO_LARGE in error:
        return "it says too much at once; ask for fewer repetitions, or smaller ones"
    return "no text that the model can write fulfils it" if error.startswith(_LEADS_NOWHERE) else error


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_REASON_CHARS else f"{text[:MAX_REASON_CHARS]}..."


def _lark(text: str) -> str:
    size = len(text.encode())
    if size > MAX_GRAMMAR_BYTES:
        raise invalid_constraint(f"it has {size} bytes; at most {MAX_GRAMMAR_BYTES} are allowed.")
    if not text.strip():
        raise invalid_constraint("it is empty; a grammar needs a rule 'start'.")
    lark = _from_gbnf(text) if _RULE.search(text) else text
    found = sum(match[1] is not None for match in _INTERSECTION.finditer(lark))
    if found > MAX_INTERSECTIONS:
        raise invalid_constraint(
            f"it has {found} of the operators '&' and '~'; at most {MAX_INTERSECTIONS} are allowed."
        )
    return lark


def _from_gbnf(text: str) -> str:
    """Lark for a grammar in GBNF, llama.cpp's notation and, with 'root' first, that of vLLM's examples."""
    try:
        return gbnf_to_lark(text)
    except (GbnfToLarkError, ValueError, IndexError, KeyError, RecursionError) as error:
        raise invalid_constraint(_shortened(f"it is not a grammar in GBNF: {error}.")) from None
