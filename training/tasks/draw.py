"""Random choices for generators: numbers, names, and wordings from a small bracket grammar."""

import re
from collections.abc import Sequence
from random import Random
from string import Template
from typing import TypeVar
from zlib import crc32

from training.tasks import words

_BRACKET = re.compile(r"\[([^\[\]]*)\]")
_PATTERN_ONE_IN = 5
T = TypeVar("T")


class Draw:
    """A seeded source of choices. ``level`` in 0..1 is the difficulty; ``held_out`` is the split."""

    def __init__(self, rng: Random, level: float = 1.0, held_out: bool = False) -> None:
        self.rng = rng
        self.level = level
        self.held_out = held_out

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.rng.random() < probability

    def number(self, low: int, high: int) -> int:
        """An integer, both ends included."""
        return self.rng.randint(low, high)

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.rng.randrange(len(options))]

    def some(self, options: Sequence[T], count: int) -> list[T]:
        """Several different options in random order."""
        return self.rng.sample(options, count)

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """All items in random order."""
        return self.rng.sample(items, len(items))

    def say(self, pattern: str, **slots: object) -> str:
        """Expand ``[a|b]`` to one alternative, innermost first, then fill ``$slots``."""
        while match := _BRACKET.search(pattern):
            chosen = self.pick(match[1].split("|"))
            pattern = pattern[: match.start()] + chosen + pattern[match.end() :]
        return Template(pattern).substitute(slots)

    def pattern(self, patterns: Sequence[str]) -> str:
        """A wording that belongs to this split: one in five wordings is never trained on."""
        return self.pick([p for p in patterns if (crc32(p.encode()) % _PATTERN_ONE_IN == 0) == self.held_out])

    def syllables(self) -> str:
        """An invented word of two or three syllables, so that copying has to be learnt."""
        count = 2 + self.chance(0.4)
        return "".join(self.pick(words.ONSETS) + self.pick(words.RIMES) for _ in range(count))

    def name(self) -> str:
        """A first name, known or invented."""
        return self.pick(words.NAMES) if self.chance(0.5) else self.syllables().capitalize()

    def names(self, count: int) -> list[str]:
        """Different first names."""
        found: dict[str, None] = {}
        while len(found) < count:
            found[self.name()] = None
        return list(found)

    def casual(self, text: str) -> str:
        """Text as people type it: sometimes lower case, without its mark, or with a slip of the finger."""
        if self.chance(0.3):
            text = text[:1].lower() + text[1:]
        elif self.chance(0.05):
            text = text.upper() if self.chance(0.3) else text.lower()
        if self.chance(0.25):
            text = text.rstrip("?.!")
        elif self.chance(0.1):
            text = text.rstrip("?.!") + self.pick(["??", "!", "!!", " ?", "...", " please", ", please?", " thanks"])
        return self.slip(text) if self.chance(0.12) else text

    def slip(self, text: str) -> str:
        """Swap, drop or double one letter."""
        if len(text) < 6:
            return text
        at = self.number(1, len(text) - 3)
        kind = self.number(0, 2)
        if kind == 0:
            return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
        return text[:at] + text[at + 1 :] if kind == 1 else text[:at] + text[at] + text[at:]
