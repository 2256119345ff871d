"""The pieces that a message is made of, in the order in which the model wrote them."""

from typing import NamedTuple, TypeAlias


class Reasoning(NamedTuple):
    """More of what the model thinks before it answers."""

    text: str


class Content(NamedTuple):
    """More of the answer."""

    text: str


class CallStart(NamedTuple):
    """A tool call begins."""

    name: str


class Arguments(NamedTuple):
    """More of the newest call's arguments: JSON text."""

    text: str


Piece: TypeAlias = Reasoning | Content | CallStart | Arguments


def joined(pieces: list[Piece]) -> list[Piece]:
    """The same, with neighbours of one kind in one piece and nothing empty; a call without arguments keeps its start."""
    result: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, CallStart):
            result.append(piece)
        elif piece.text:
            last = result[-1] if result else None
            if isinstance(last, Reasoning) and isinstance(piece, Reasoning):
                result[-1] = Reasoning(last.text + piece.text)
            elif isinstance(last, Content) and isinstance(piece, Content):
                result[-1] = Content(last.text + piece.text)
            elif isinstance(last, Arguments) and isinstance(piece, Arguments):
                result[-1] = Arguments(last.text + piece.text)
            else:
                result.append(piece)
    return result
