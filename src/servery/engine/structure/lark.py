"""Pieces of grammars in Lark's notation."""

import json
import re
from collections.abc import Mapping


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
