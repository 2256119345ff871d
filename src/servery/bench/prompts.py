"""Prompts of given lengths in tokens, the same for the same seed.

Where the server offers /tokenize, a prompt is grown or cut word by word until the whole request, the chat template
included, has the length asked for. Elsewhere the length is guessed from the number of characters; the report then says
so, and always tells the lengths that the server counted.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from servery.bench.client import Client
from servery.bench.errors import Malformed, WrongStatus

CHARACTERS_PER_TOKEN = 4.0  # of English, with the vocabularies of large models
ROUNDS = 12
_CALIBRATION = 512  # tokens: over shorter texts the template counts for too much
_NOT_OFFERED = (400, 403, 404, 405, 422, 501)
_WORDS = """apple arrow autumn basket bell bird blue boat book bread bridge brown bucket butter candle carpet castle chair
cheese city clock cloud coat coffee color copper corn cotton country cup dance desk dinner doctor door dream drum eagle
engine evening farm feather field finger fire fish floor flower forest friend garden glass gold grass green hammer hand
harbor hat hill honey horse house island jacket kettle kitchen lake lamp leaf lemon letter light lion market meadow milk
mirror money month moon morning mountain music night number ocean orange paper pencil piano picture pocket pond queen
rain river road roof room salt school sea shadow ship shoe silver snow song spoon spring star stone street sugar summer
sun table teacher thunder tower train tree valley village wagon wall water week wheel wind window winter wood yellow
""".split()

Messages = list[dict[str, str]]


class TokenCounter(Protocol):
    """Tells how long a request is."""

    @property
    def is_exact(self) -> bool:
        """Whether it is the server's own count."""
        ...

    async def count(self, messages: Messages) -> int:
        """The number of tokens of `messages` as a prompt."""
        ...


@dataclass(frozen=True, slots=True)
class ServerCount:
    """Asks the server's /tokenize."""

    client: Client
    model: str
    is_exact: bool = True

    async def count(self, messages: Messages) -> int:
        """The number of tokens, the chat template included."""
        return await self.client.count_tokens(self.model, messages)


@dataclass(frozen=True, slots=True)
class CharacterCount:
    """Guesses from the number of characters."""

    is_exact: bool = False

    async def count(self, messages: Messages) -> int:
        """The number of tokens, roughly."""
        return round(sum(len(message["content"]) for message in messages) / CHARACTERS_PER_TOKEN)


async def token_counter(client: Client, model: str) -> TokenCounter:
    """The server's own count where it is offered, else a guess."""
    counter = ServerCount(client, model)
    try:
        await counter.count([{"role": "user", "content": "one"}])
    except (WrongStatus, Malformed) as error:
        if isinstance(error, WrongStatus) and error.status not in _NOT_OFFERED:
            raise
        return CharacterCount()
    return counter


@dataclass(slots=True)
class PromptMaker:
    """Makes one prompt after the other; all begin with the same `shared_tokens` tokens, on top of their own length.

    `opening` is the first word of all, within their length.
    """

    counter: TokenCounter
    shared_tokens: int
    seed: int
    opening: str = ""
    _source: random.Random = field(init=False)
    _shared: list[str] | None = field(init=False, default=None)
    _blocks: dict[int, list[str]] = field(init=False, default_factory=dict)
    _per_word: float = field(init=False, default=2.0)  # tokens, as learnt from what was counted

    def __post_init__(self) -> None:
        self._source = random.Random(self.seed)

    async def make(self, tokens: int) -> Messages:
        """A prompt of `tokens` tokens besides the shared ones, never below what the template and one word take."""
        return _messages(await self._fit(await self._beginning(), self.shared_tokens + tokens))

    async def from_blocks(self, names: Sequence[int], block_tokens: int, tokens: int) -> Messages:
        """A prompt of roughly `tokens` tokens besides the shared ones, its parts the same wherever a name is the same.

        How many words a block has is settled by the first prompt that is made, for all.
        """
        if not self._blocks:
            await self._fit([], max(block_tokens, _CALIBRATION))
        beginning = await self._beginning()
        words = [word for name in names for word in self._block(name, block_tokens)]
        return _messages([*beginning, *words[: max(1, round(tokens / self._per_word))]])

    async def _beginning(self) -> list[str]:
        if self._shared is None:
            opening = [self.opening] if self.opening else []
            self._shared = await self._fit(opening, self.shared_tokens) if self.shared_tokens else opening
        return self._shared

    def _block(self, name: int, tokens: int) -> list[str]:
        if name not in self._blocks:
            source = random.Random(f"{self.seed}/{name}")
            self._blocks[name] = source.choices(_WORDS, k=max(1, round(tokens / self._per_word)))
        return self._blocks[name]

    async def _fit(self, before: list[str], target: int) -> list[str]:
        """`before` and random words, as close below `target` tokens as the words allow (a few tokens at most)."""
        words = self._resize([*before, self._source.choice(_WORDS)], 1, (target / self._per_word) - len(before) - 1)
        words = words if len(words) > len(before) else [*before, self._source.choice(_WORDS)]
        best, best_count, last = words[: len(before) + 1], 0, (0, 0)
        for _ in range(ROUNDS):
            count = await self.counter.count(_messages(words))
            if best_count < count <= target:
                best, best_count = list(words), count
            if count == target or (count > target and len(words) == len(before) + 1):
                break
            if abs(len(words) - last[0]) > 2:  # a slope over fewer words is mostly chance
                self._per_word = max((count - last[1]) / (len(words) - last[0]), 0.5)
            last = (len(words), count)
            words = self._resize(words, len(before) + 1, (target - count) / self._per_word)
        return best

    def _resize(self, words: list[str], fewest: int, missing: float) -> list[str]:
        steps = math.floor(missing) or (1 if missing > 0 else -1)
        if steps > 0:
            return words + self._source.choices(_WORDS, k=steps)
        return words[: max(len(words) + steps, fewest)]


def _messages(words: list[str]) -> Messages:
    return [{"role": "user", "content": " ".join(words)}]
