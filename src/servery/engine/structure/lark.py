"""Pieces of grammars in Lark's notation."""

import json
import re
from collections.abc import Mapping

# Between reasoning and what follows it.
_BREAK = r"/\n{0,2}/"


def literal(text: str, special: Mapping[str, int]) -> str:
    """An expression for exactly `text`, in which the texts of special tokens stand for these tokens; "" for none."""
    if not text:
        return ""
    names = sorted((name for name in special if name), key=len, reverse=True)
    pieces = re.split(f"({'|'.join(map(re.escape, names))})", text) if names else [text]
    return " ".join(
        f"<[{special[piece]}]>" if piece in special else json.dumps(piece, ensure_ascii=False)
        for piece in pieces
        if piece
    )


def until(text: str) -> str:
    """An expression for anything up to the end of `text`, for a rule that is lazy."""
    escaped = "".join(f"\\x{{{ord(char):x}}}" if not char.isalnum() else char for char in text)
    return f"/(.|\\n)*{escaped}/"


def with_reasoning(begin: str, end: str, special: Mapping[str, int]) -> str:
    """A grammar whose texts are those of the grammar `answer`, perhaps after reasoning between `begin` and `end`."""
    if end in special:
        thought = f"thought: {literal(begin, special)} /(.|\\n)*/ {literal(end, special)}"
    else:
        thought = f"thought: {literal(begin, special)} rest\nrest[lazy]: {until(end)}"
    return f"start: (thought {_BREAK})? @answer\n{thought}"
