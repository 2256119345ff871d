"""A scene: a few questions with their only right answers, and what they need in the system turn."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from training.tasks.draw import Draw

Tool = dict[str, Any]
"""A function a model may call, in the chat-completions form: ``{"type": "function", "function": {...}}``."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its only right answer. ``role`` is ``tool`` when the question is a tool's result."""

    question: str
    answer: str
    role: str = "user"


@dataclass(frozen=True, slots=True)
class Scene:
    """Turns that belong together. ``key`` is their content, never the wording; it decides the split.

    An empty key says that the generator has chosen held-out content by itself (see ``Draw.pattern``).
    A ``spread`` scene keeps its last turn for the end of the conversation. An ``alone`` scene does not stand
    a system turn with other facts.
    """

    turns: tuple[Turn, ...]
    key: str
    system: str = ""
    tools: tuple[Tool, ...] = ()
    spread: bool = False
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """One generator: its stratum and name, its share of the training mix, and the function."""

    stratum: str
    name: str
    weight: float
    make: Callable[[Draw], Scene] = field(repr=False)

    def scene(self, draw: Draw) -> Scene:
        """A scene whose content belongs to the split of ``draw``."""
        while True:
            scene = self.make(draw)
            if not scene.key or is_held_out(self.name + scene.key) == draw.held_out:
                return scene


def is_held_out(key: str, one_in: int = 20) -> bool:
    """Whether content is kept for evaluation; stable over runs, machines and Python versions."""
    return crc32(key.encode()) % one_in == 0


def ask(question: str, answer: str, key: str, system: str = "") -> Scene:
    """A scene of one turn."""
    return Scene((Turn(question, answer),), key, system)
