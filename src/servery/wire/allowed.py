"""Which words may stand at a place of a request's body, by its type: for errors about others."""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from msgspec import inspect

_STEPS = re.compile(r"\[\.*\d*\]|[^.\[\]]+")


def allowed_words(kind: Any, path: str) -> Sequence[str]:
    """The words that `kind` takes at `path` ("tools[0].type"), sorted; none where it is no matter of words."""
    types = list(_flat(_info(kind)))
    parents: list[inspect.Type] = []
    for step in _STEPS.findall(path):
        parents, types = types, [inner for each in types for inner in _inside(each, step)]
    found = {value for each in types if isinstance(each, inspect.LiteralType) for value in each.values}
    if not types:  # what says which of several structs it is, is no field of them
        last = path.rpartition(".")[2]
        tags = {each.tag for each in parents if isinstance(each, inspect.StructType) and each.tag_field == last}
        found = tags - {None}
    return sorted(str(each) for each in found)


@cache
def _info(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def _flat(kind: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(kind, inspect.UnionType):
        for each in kind.types:
            yield from _flat(each)
    else:
        yield kind


def _inside(kind: inspect.Type, step: str) -> Iterator[inspect.Type]:
    """What is at one step into a type: an item of a list, or a field."""
    if isinstance(kind, inspect.ListType) and step.startswith("["):
        yield from _flat(kind.item_type)
    elif isinstance(kind, inspect.StructType):
        for each in kind.fields:
            if each.encode_name == step:
                yield from _flat(each.type)
