"""Pieces of grammars in Lark's notation."""

import json
import re
from collections.abc import Mapping


def literal(text: str, special: Mapping[str, int]) -> str:
    """An expression for exactly `text`, in which the texts of `special` tokens stand for these tokens; "" for none."""
    if not text:
        return ""
    names = sorted((name for name in special if name), key=len, reverse=True)
    pieces = re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]
    return " ".join(
        f"<[{special[piece]}]>" if piece in special else json.dumps(piece, ensure_ascii=False)
        for piece in pieces
        if piece
    )


def escaped(text: str) -> str:
    """A part of a regular expression for exactly `text`."""
    return "".join(char if char.isascii() and char.isalnum() else f"\\x{{{ord(char):x}}}" for char in text)


def until(text: str) -> str:
    """An expression for anything up to the end of `text`, for a rule that is lazy."""
    return f"/(.|\\n)*{escaped(text)}/"


def text_without(pattern: str, *, is_only_at_start: bool = False) -> str:
    """An expression for any text in which nothing matches `pattern`, or that does not begin with a match."""
    before = "" if is_only_at_start else "(.|\\n)*"
    return f"/(.|\\n)*/ & ~/{before}({pattern})(.|\\n)*/"
