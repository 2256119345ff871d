"""What is wrong with a section, in the words of the file: the key, what was given and what may be."""

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from servery.config.errors import Path

_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`")
_MISSING_FIELD = re.compile(r"Object missing required field `(.*)`")
_BAD_CHOICE = re.compile(r"Invalid enum value '(.*)'")
_AT = re.compile(r" - at `\$(.*)`$")
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+)\]")
_SOME_KEY = "[...]"  # of a mapping with keys of its own: msgspec does not say which


def explain(text: str, kind: type[msgspec.Struct], at: Path) -> tuple[Path, str]:
    """Where a validation error of msgspec's lies, of a section that stands at `at`, and what to tell of it."""
    where = _AT.search(text)
    steps = [name or int(number) for name, number in _STEP.findall(where[1].replace(_SOME_KEY, ""))] if where else []
    text, path = _AT.sub("", text), (*at, *steps)
    unknown, choice = _UNKNOWN_FIELD.fullmatch(text), _BAD_CHOICE.fullmatch(text)
    if unknown:
        names = _fields(kind, steps)
        return (*path, unknown[1]), f"there is no such key here.{did_you_mean(unknown[1], names)}"
    if choice:
        choices = _choices(kind, steps)
        listed = f"; choose one of {', '.join(choices)}" if choices else ""
        return path, f"'{choice[1]}' is no choice{listed}.{did_you_mean(choice[1], choices)}"
    missing = _MISSING_FIELD.fullmatch(text)
    if missing:
        return path, f"the key '{missing[1]}' is missing."
    return path, text[0].lower() + text[1:].replace("`", "") + "."


def _type_at(kind: Any, steps: Iterable[str | int]) -> msgspec.inspect.Type:
    """The type of what stands at `steps` in a section, unions on the way there opened for their only structure."""
    found = msgspec.inspect.type_info(kind)
    for step in steps:
        found = _inner(found, step)
    return found


def _inner(found: msgspec.inspect.Type, step: str | int) -> msgspec.inspect.Type:
    found = _opened(found)
    if isinstance(found, msgspec.inspect.StructType):
        return next((field.type for field in found.fields if field.encode_name == step), msgspec.inspect.AnyType())
    if isinstance(found, msgspec.inspect.ListType):
        return found.item_type
    return msgspec.inspect.AnyType()


def _opened(found: msgspec.inspect.Type) -> msgspec.inspect.Type:
    while isinstance(found, msgspec.inspect.Metadata | msgspec.inspect.UnionType):
        if isinstance(found, msgspec.inspect.Metadata):
            found = found.type
            continue
        wanted = (msgspec.inspect.StructType, msgspec.inspect.EnumType, msgspec.inspect.ListType)
        within = [each.type if isinstance(each, msgspec.inspect.Metadata) else each for each in found.types]
        found = next((each for each in within if isinstance(each, wanted)), msgspec.inspect.AnyType())
    return found


def _fields(kind: Any, steps: Iterable[str | int]) -> list[str]:
    found = _opened(_type_at(kind, steps))
    return [field.encode_name for field in found.fields] if isinstance(found, msgspec.inspect.StructType) else []


def _choices(kind: Any, steps: Iterable[str | int]) -> list[str]:
    return list(_words(_type_at(kind, steps)))


def _words(found: msgspec.inspect.Type) -> Iterator[str]:
    """The words that may stand there."""
    if isinstance(found, msgspec.inspect.EnumType):
        yield from (str(member.value) for member in found.cls)
    elif isinstance(found, msgspec.inspect.LiteralType):
        yield from map(str, found.values)
    elif isinstance(found, msgspec.inspect.Metadata):
        yield from _words(found.type)
    elif isinstance(found, msgspec.inspect.UnionType):
        for each in found.types:
            yield from _words(each)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence with the closest known name, led by a space; empty when nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""
