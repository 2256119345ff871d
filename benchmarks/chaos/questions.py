"""What clients ask: a few prompts of different lengths, by every API, streamed and not, at temperature 0, seeded, or free."""

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

PATHS: Mapping[str, str] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
}
# How many tokens an answer has, how many prompts are answered so, and how often they are asked.
_LENGTHS = ((8, 4, 7.0), (24, 4, 7.0), (60, 3, 4.0), (200, 2, 1.5), (1000, 1, 0.4))
# APIs with a seed, and with a field that keeps an answer from ending by itself.
_OPEN = ("chat", "completions")
_SYSTEM = "You are the clerk of a small library by the sea. Answer as shortly as you can. " * 4
_TOPICS = ("a lighthouse", "the tide", "three ships", "an old map", "a whale", "salt", "the harbour", "a storm")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One of the prompts, and how many tokens its answer has at most."""

    number: int
    tokens: int
    weight: float

    @property
    def text(self) -> str:
        """The question."""
        return f"Tell me story {self.number} about {_TOPICS[self.number % len(_TOPICS)]}."

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation: every other prompt has a turn behind it, under a system prompt that they share."""
        asked = {"role": "user", "content": self.text}
        if self.number % 2:
            return [asked]
        earlier = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "The clerk."}]
        return [{"role": "system", "content": _SYSTEM}, *earlier, asked]


def _prompts() -> Iterator[Prompt]:
    number = 0
    for tokens, count, weight in _LENGTHS:
        for _ in range(count):
            yield Prompt(number, tokens, weight / count)
            number += 1


PROMPTS = tuple(_prompts())


@dataclass(frozen=True, slots=True)
class Question:
    """A request: to which model, by which API. `choice` says how tokens are chosen: "greedy", "seeded" or "free".

    What has the same `key` has the same answer, byte for byte, whoever gives it; `key` is None for what is left to chance.
    """

    api: str
    model: str
    prompt: Prompt
    choice: str
    is_stream: bool

    @property
    def key(self) -> tuple[str, int, str] | None:
        """By what answers are compared."""
        return None if self.choice == "free" else (self.api, self.prompt.number, self.choice)

    @property
    def path(self) -> str:
        """Where it is sent."""
        return PATHS[self.api]

    def body(self) -> bytes:
        """As JSON."""
        return json.dumps({**self._asked(), **self._sampling(), "model": self.model, "stream": self.is_stream}).encode()

    def _asked(self) -> dict[str, Any]:
        prompt = self.prompt
        if self.api == "completions":
            return {"prompt": prompt.text, "max_tokens": prompt.tokens}
        if self.api == "responses":
            return {"input": prompt.messages, "max_output_tokens": prompt.tokens, "store": False}
        if self.api == "messages":
            system = [each["content"] for each in prompt.messages if each["role"] == "system"]
            said = [each for each in prompt.messages if each["role"] != "system"]
            return {"messages": said, "max_tokens": prompt.tokens} | ({"system": system[0]} if system else {})
        return {"messages": prompt.messages, "max_tokens": prompt.tokens}

    def _sampling(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"temperature": 0.0 if self.choice == "greedy" else 0.8}
        if self.api in _OPEN:
            fields["ignore_eos"] = True
            if self.choice == "seeded":
                fields["seed"] = self.prompt.number
            if self.is_stream:
                fields["stream_options"] = {"include_usage": True}
        return fields


def drawn(chance: random.Random, models: Mapping[str, float]) -> Question:
    """One by chance; `models` are names with how often each is asked."""
    api = chance.choices(tuple(PATHS), (5, 2, 2, 2))[0]
    choice = chance.choices(("greedy", "seeded", "free"), (6, 2, 2))[0]
    return Question(
        api=api,
        model=chance.choices(tuple(models), tuple(models.values()))[0],
        prompt=chance.choices(PROMPTS, [each.weight for each in PROMPTS])[0],
        choice="greedy" if choice == "seeded" and api not in _OPEN else choice,
        is_stream=chance.random() < 0.75,
    )


def repeatable(model: str, most_tokens: int) -> list[Question]:
    """One for every key, with answers of at most `most_tokens`."""
    return [
        Question(api=api, model=model, prompt=prompt, choice=choice, is_stream=False)
        for prompt in PROMPTS
        if prompt.tokens <= most_tokens
        for api in PATHS
        for choice in (("greedy", "seeded") if api in _OPEN else ("greedy",))
    ]
