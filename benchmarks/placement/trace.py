"""The same bursts for every placement: when each request comes, what it asks, how long its answer is."""

import random
from dataclasses import dataclass

Messages = list[dict[str, str]]

_WORDS = (
    "apple bell boat bread bridge candle castle cloud coat corn dance desk door dream drum eagle engine evening farm fire "
    "fish flower forest garden glass hammer harbor honey house island kettle kitchen lake lamp leaf letter lion market milk "
    "mirror moon morning music night ocean orange paper pencil piano pocket pond queen rain river road roof room salt"
).split()
_DEPARTMENTS = 4
_SYSTEM_WORDS = 120
_QUESTION_WORDS = 12
_ANSWER_WORDS = 20
# The next request is a further turn of a conversation rather than a new one.
_TURNS_SHARE = 0.6
_MOST_TURNS = 5
_TOKENS = (16, 48)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request `at_s` seconds after the beginning, and how many tokens its answer has."""

    at_s: float
    messages: Messages
    tokens: int


def trace(rate: float, burstiness: float, for_s: float, seed: int) -> list[Arrival]:
    """Requests for so long at `rate` a second on average, in conversations under shared system prompts.

    The gaps are drawn from a gamma distribution whose coefficient of variation is `burstiness`: 1 is Poisson, above it
    requests come in bursts.
    """
    chance = random.Random(seed)
    shape = 1.0 / burstiness**2
    departments = [_text(chance, _SYSTEM_WORDS) for _ in range(_DEPARTMENTS)]
    open_: list[Messages] = []
    arrivals, at_s = [], 0.0
    while (at_s := at_s + chance.gammavariate(shape, 1.0 / (rate * shape))) < for_s:
        messages = _asked(chance, open_, departments)
        arrivals.append(Arrival(at_s, messages, chance.randint(*_TOKENS)))
    return arrivals


def _asked(chance: random.Random, open_: list[Messages], departments: list[str]) -> Messages:
    """A further turn of one of the conversations, or the first of another one."""
    question = {"role": "user", "content": _text(chance, _QUESTION_WORDS)}
    if open_ and chance.random() < _TURNS_SHARE:
        messages = open_.pop(chance.randrange(len(open_)))
        messages = [*messages, {"role": "assistant", "content": _text(chance, _ANSWER_WORDS)}, question]
    else:
        messages = [{"role": "system", "content": chance.choice(departments)}, question]
    if len(messages) < 2 * _MOST_TURNS:
        open_.append(messages)
    return messages


def _text(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(_WORDS, k=words))
