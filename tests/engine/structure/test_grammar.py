"""What can be enforced, and what is said of what cannot."""

import json

import llguidance
import pytest

from servery.engine import constraint
from servery.engine.constraint import Constraint
from servery.engine.errors import InvalidRequest
from servery.engine.structure.grammar import check_constraint, grammar_text


class _Bytes:
    """Every byte is a token, and 256 is the end."""

    def __init__(self) -> None:
        self.eos_token_id, self.bos_token_id = 256, None
        self.tokens = [*(bytes([byte]) for byte in range(256)), b"<end>"]
        self.special_token_ids = [256]

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def accepts(wanted: Constraint, text: str) -> bool:
    tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes()))
    matcher = llguidance.LLMatcher(tokenizer, grammar_text(wanted), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    data = text.encode()
    return matcher.try_consume_tokens(list(data)) == len(data) and matcher.is_accepting()


def deep(levels: int) -> dict:
    schema: dict = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("wanted", "good", "bad"),
    [
        (constraint.json_object(), ["{}", '{"a": [1, null]}', '{\n    "a": true\n}'], ["[]", "{", '{"a":1}}', "{  }"]),
        (constraint.regex(r"[ab]+-\d{2}"), ["a-12", "abab-00"], ["a-1", "x-12", "a-123"]),
        (constraint.regex(r"\d\w/"), ["1a/"], ["٣a/", "1é/"]),
        (constraint.choice(['say "hi"', "no\n"]), ['say "hi"', "no\n"], ["no", "say"]),
        (constraint.grammar('start: "(" start ")" | "x"'), ["x", "((x))"], ["(x", "(x))"]),
        (constraint.grammar('root ::= "yes" | "no" [0-9]+'), ["yes", "no42"], ["no", "root"]),
    ],
)
def test_each_kind_takes_its_language_and_nothing_else(wanted: Constraint, good: list[str], bad: list[str]) -> None:
    check_constraint(wanted)
    assert [accepts(wanted, text) for text in good] == [True] * len(good)
    assert [accepts(wanted, text) for text in bad] == [False] * len(bad)


def test_a_key_has_one_spelling() -> None:
    """A key written with escapes would pass for one that the schema does not name."""
    wanted = constraint.json_schema({"type": "object", "properties": {"a": {"type": "string"}}})
    assert accepts(wanted, '{"b": 1}')
    assert not accepts(wanted, '{"\\u0061": 1}')


def test_a_client_cannot_relax_the_compiler() -> None:
    schema = {"type": "object", "not": {}, "x-guidance": {"lenient": True}}
    with pytest.raises(InvalidRequest, match="'not'"):
        check_constraint(constraint.json_schema(schema))


_MANY_PATTERNS = {"allOf": [{"type": "string", "pattern": f"[a-z]{{{i}}}x"} for i in range(40)]}


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (constraint.json_schema({"not": {}}), "it uses keywords that cannot be enforced: 'not' at '/'; say what is allowed"),
        (
            constraint.json_schema({"items": {"uniqueItems": True, "contains": {}}}),
            "it uses keywords that cannot be enforced: 'contains', 'uniqueItems' at '/items'; name",
        ),
        (constraint.json_schema({"type": "strin"}), "'type' at '/' is 'strin', which is none of JSON's types."),
        (constraint.json_schema({"format": "iri"}), "the format 'iri' at '/' is not known; use"),
        (
            constraint.json_schema({"$ref": "#/$defs/a"}),
            "pointer '/$defs/a' does not exist.",
        ),
        (constraint.json_schema(deep(101)), "it is nested more than 100 levels deep."),
        (
            constraint.json_schema({"type": "object", "minProperties": 3, "required": ["a"]}),
            "'minProperties' is 3 at '/' where 'required' names 1 properties; it can be enforced up to 2: name",
        ),
        (
            constraint.json_schema({"properties": {"a": {"const": "\x01"}}}),
            "a name or value at '/properties/a' has the control character U+0001, which constrained answers cannot have.",
        ),
        (
            constraint.json_schema(_MANY_PATTERNS),
            "up to 40 'pattern's may apply to one string through 'allOf' and '$ref'; at most 12 can be joined.",
        ),
        (
            constraint.regex("(a"),
            "it is not a regular expression that can be enforced: unclosed group.",
        ),
        (
            constraint.regex(r"\bfoo\b"),
            "it is not a regular expression that can be enforced: lookarounds not supported yet; WordUnicode",
        ),
        (constraint.grammar('start: other\nother: b'), 'line 2, column 8: unknown name: "b".'),
        (constraint.grammar("start: /[/"), 'line 1, column 8: invalid regex "[" (in regex): regex parse'),
        (constraint.grammar('other: "a"'), "no start rule found."),
        (constraint.grammar(" \n"), "it is empty; a grammar needs a rule 'start'."),
        (constraint.grammar("#" + "x" * 65_536), "it has 65537 bytes; at most 65536 are allowed."),
        (
            constraint.grammar("start: X\nX: " + " & ".join("/a*/" for _ in range(20))),
            "it has 19 of the operators '&' and '~'; at most 12 are allowed.",
        ),
        (constraint.grammar("root ::= ("), "it is not a grammar in GBNF: "),
    ],
)  # fmt: skip
def test_what_cannot_be_enforced_is_refused_with_the_reason(wanted: Constraint, reason: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_constraint(wanted)
    told = str(caught.value)
    assert told.startswith(f"constraint cannot be enforced: {reason}")
    assert caught.value.param == "constraint"


def test_operators_inside_strings_and_expressions_are_none() -> None:
    check_constraint(constraint.grammar('start: "&&&&&&&&&&&&&&&&" /~~~~~~~~~~~~~~~~~~~~/ X~1..20 // & & & &\nX: "x"'))


def test_what_pydantic_writes_can_be_enforced() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Inner(pydantic.BaseModel):
        when: str | None = None
        size: float = pydantic.Field(ge=0, le=10, description="how large")

    class Outer(pydantic.BaseModel):
        name: str = pydantic.Field(min_length=1, max_length=5, examples=["x"])
        inner: list[Inner]

    wanted = constraint.json_schema(Outer.model_json_schema())
    check_constraint(wanted)
    assert accepts(wanted, json.dumps({"name": "abc", "inner": [{"when": None, "size": 2.5}]}))
    assert not accepts(wanted, json.dumps({"name": "abcdef", "inner": []}))
