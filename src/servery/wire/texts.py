"""Prompts and inputs: text, token ids, or a list of either, all under one name."""

from typing import TypeAlias

from servery.wire.errors import ApiError, invalid

Texts: TypeAlias = str | list[str | int | list[int]]


def check_texts(texts: Texts, param: str, limit: int) -> None:
    """Check that there is one kind only, nothing empty, and at most `limit` texts; raises `ApiError`."""
    if not texts:
        raise _empty(param)
    if isinstance(texts, str):
        return
    kinds = {type(item) for item in texts}
    if len(kinds) > 1:
        raise invalid(f"'{param}' mixes strings, integers and arrays; every item must be of the same kind.", param)
    if kinds == {int}:
        return
    if len(texts) > limit:
        raise invalid(f"'{param}' has {len(texts)} items; at most {limit} are allowed.", param)
    for at, item in enumerate(texts):
        if not item:
            raise _empty(f"{param}[{at}]")


def count_texts(texts: Texts) -> int:
    """How many `split_texts` makes of them."""
    return 1 if isinstance(texts, str) or isinstance(texts[0], int) else len(texts)


def split_texts(texts: Texts) -> list[str | list[int]]:
    """Every text, or every list of token ids, on its own; `texts` has been checked."""
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts[0], int):
        return [[item for item in texts if isinstance(item, int)]]
    return [item for item in texts if not isinstance(item, int)]


def text_params(param: str, count: int) -> list[str]:
    """What the client calls each of `count` texts: one alone is the parameter itself."""
    return [param] if count == 1 else [f"{param}[{at}]" for at in range(count)]


def _empty(param: str) -> ApiError:
    return invalid(f"'{param}' is empty; at least one character or token is needed.", param)
