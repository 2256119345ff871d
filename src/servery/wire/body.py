"""Request bodies: JSON bytes to typed values, where everything that is not understood is an error that names it.

JSON is taken strictly: UTF-8 only, no NaN or Infinity, no half surrogate pairs, no key twice, no unknown field.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn, TypeVar

import msgspec

from servery.wire.allowed import allowed_words
from servery.wire.errors import ApiError, did_you_mean, invalid, shown

T = TypeVar("T")

_AT = re.compile(r" - at `(?:key` in `)?\$?\.?(.*)`$")
_EXPECTED = re.compile(r"Expected `(.+?)`(.*), got `(.+)`$")
_FIELD = re.compile(r"Object (contains unknown|missing required) field `(.*)`$")
_INVALID = re.compile(r"Invalid (?:enum )?value (.*)$")
# Long lists of numbers (prompts as token ids) have no keys, and reading a million of them takes a third of a second.
_NUMBERS = re.compile(rb"\[[-+.,eE\d\s]{64,}\]")
_TYPE_NAMES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}


class _Duplicate(ValueError):
    """A key that occurs twice in one object; clients and servers disagree on which one counts."""


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """`body` as the decoder's type; raises `ApiError` (400) that says what is wrong and where."""
    if not body.strip():
        raise invalid("The request body is empty; send a JSON object.", code="invalid_json")
    try:
        value = decoder.decode(body)
        _check_keys(body)
    except msgspec.ValidationError as error:
        raise _explain(str(error), decoder.type) from None
    except _Duplicate as error:
        raise invalid(f"The key {error} occurs twice in one object of the request body.", code="invalid_json") from None
    except RecursionError:
        raise invalid("The JSON body is nested too deeply.", code="invalid_json") from None
    except (msgspec.DecodeError, ValueError):
        raise invalid(f"The request body is not valid JSON: {_fault(body)}.", code="invalid_json") from None
    return value


def convert(value: Any, kind: Any, path: str, *, flat: Sequence[str] = ()) -> Any:
    """A decoded part of a body, which stands at `path`, as `kind`; raises `ApiError` (400) as `decode` does.

    `flat` are levels that `kind` has and the body has not: they are left out of names.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        told = _explain(str(error), kind, within=path)
    param = told.param or ""
    for level in flat:
        param = param.replace(f".{level}", "")
    raise invalid(told.message.replace(f"'{told.param}'", f"'{param}'"), param, told.code)


def _check_keys(body: bytes) -> None:
    """Raise `_Duplicate` if an object of the valid JSON `body` has a key twice."""
    try:
        json.loads(_NUMBERS.sub(b"[]", body), object_pairs_hook=_unique)
    except _Duplicate:
        json.loads(body, object_pairs_hook=_unique)  # two keys may differ in nothing but what was taken out


def _unique(pairs: list[tuple[str, Any]]) -> None:
    keys = {key for key, _ in pairs}
    if len(keys) < len(pairs):
        seen: set[str] = set()
        raise _Duplicate(next(repr(key) for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]


def _fault(body: bytes) -> str:
    """Why the decoder refused `body`, in more words than it has."""
    try:
        json.loads(body.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        return f"it is not UTF-8 (byte 0x{body[error.start]:02x} at offset {error.start})"
    except json.JSONDecodeError as error:
        return f"{error.msg} at line {error.lineno}, column {error.colno}"
    except ValueError as error:
        return str(error)
    except RecursionError:
        return "it is nested too deeply"
    return "a \\u escape is one half of a surrogate pair, which is not a character"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _explain(message: str, kind: Any, within: str = "") -> ApiError:
    """The error in the API's words about a value that is no `kind`; `within` is where it stands in the body."""
    path, inner = within, ""
    if at := _AT.search(message):
        inner, message = at[1], message[: at.start()]
        path = f"{within}.{inner}" if within and inner and not inner.startswith("[") else within + inner
    if field := _FIELD.match(message):
        known = () if within else getattr(kind, "__struct_fields__", ())
        return _field_error(field[2], path, known, is_missing=field[1].startswith("missing"))
    if expected := _EXPECTED.match(message):
        wanted, limits, got = (_plain(expected[1]), expected[2], _plain(expected[3]))
        where = f" for '{path}'" if path else ""
        text = f"Invalid type{where}: expected {wanted}{limits}, but got {got} instead."
        return invalid(text, path or None, "invalid_type")
    if value := _INVALID.match(message):
        return invalid(f"Invalid value for '{path}': {value[1]}.{_instead(allowed_words(kind, inner))}", path or None)
    return invalid(f"Invalid value for '{path}': {message}." if path else f"{message}.", path or None)


def _instead(words: Sequence[str]) -> str:
    *others, last = map(repr, words or ("",))
    return "" if not words else f" Use {', '.join(others)} or {last}." if others else f" Use {last}."


def _field_error(name: str, path: str, known: Sequence[str], *, is_missing: bool) -> ApiError:
    full = shown(f"{path}.{name}" if path else name)
    if is_missing:
        return invalid(f"Missing required parameter: '{full}'.", full, "missing_required_parameter")
    hint = "" if path else did_you_mean(name, known)
    return invalid(f"Unknown parameter: '{full}'.{hint}", full, "unknown_parameter")


def _plain(types: str) -> str:
    """`float | null` as `number`: that null means "not given" needs no saying."""
    names = [_TYPE_NAMES.get(name, name) for name in types.split(" | ")]
    return " or ".join(name for name in names if name != "null" or len(names) == 1)
