"""Multiple choice by log probability: which of the given answers a model finds most likely, without it writing one.

After a `prompt`, the log probabilities of each choice's tokens are summed, over the echoed prompt. A chat API gives none
of the prompt's, so after `messages` the choices are told apart by the first token of the answer: right for choices
such as A, B, C, and an unlikely choice that is not among the most likely tokens counts as impossible.
"""

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from servery.bench.errors import Malformed
from servery.evals import wire
from servery.evals.answer import Answer
from servery.evals.task import Task

TOP_LOGPROBS = 20
IMPOSSIBLE = -1e9  # JSON has no infinity


class _Top(msgspec.Struct):
    token: str
    logprob: float


class _Token(msgspec.Struct):
    top_logprobs: list[_Top]


class _ChatLogprobs(msgspec.Struct):
    content: list[_Token]


class _ChatChoice(msgspec.Struct):
    logprobs: _ChatLogprobs


class _ChatBody(msgspec.Struct):
    choices: list[_ChatChoice]


class _Columns(msgspec.Struct):
    text_offset: list[int]
    token_logprobs: list[float | None]


class _EchoChoice(msgspec.Struct):
    logprobs: _Columns


class _EchoBody(msgspec.Struct):
    choices: list[_EchoChoice]


def first_token_request(task: Task) -> tuple[str, dict[str, Any]]:
    """Ask for one token of the answer and the most likely ones at its place."""
    endpoint, body = wire.request(task)
    return endpoint, {**body, "max_tokens": 1, "logprobs": True, "top_logprobs": TOP_LOGPROBS}


def read_first_token(data: Any, task: Task) -> Answer:
    """Give each choice the log probability of the likeliest token that only it begins with. Raises `Malformed`."""
    try:
        top = msgspec.convert(data, _ChatBody).choices[0].logprobs.content[0].top_logprobs
    except (msgspec.ValidationError, IndexError) as error:
        raise Malformed(f"The answer to task {task.id!r} has no log probabilities: {error}") from None
    return by_first_token(task, [(entry.token, entry.logprob) for entry in top])


def by_first_token(task: Task, top: Sequence[tuple[str, float]]) -> Answer:
    """The choices' log probabilities from the most likely first tokens (text, log probability)."""
    scored = [IMPOSSIBLE] * len(task.choices)
    for token, logprob in top:
        begun = [at for at, choice in enumerate(task.choices) if _begins(choice, token)]
        if len(begun) == 1:
            scored[begun[0]] = max(scored[begun[0]], logprob)
    return answer(task, scored)


def _begins(choice: str, token: str) -> bool:
    text = token.strip()
    return bool(text) and choice.strip().startswith(text)


def echo_request(task: Task, choice: str) -> tuple[str, dict[str, Any]]:
    """Ask for the log probabilities of a prompt that ends in `choice`, and for no new token."""
    prompt = (task.prompt or "") + choice
    return wire.COMPLETIONS, {"prompt": prompt, "max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0}


def read_echo(data: Any, task: Task) -> float:
    """The summed log probability of the tokens after the task's own prompt. Raises `Malformed`.

    A token that begins before the prompt's end and reaches over it belongs to the choice.
    """
    try:
        columns = msgspec.convert(data, _EchoBody).choices[0].logprobs
    except (msgspec.ValidationError, IndexError) as error:
        raise Malformed(f"The answer to task {task.id!r} has no echoed log probabilities: {error}") from None
    border = len(task.prompt or "")
    ends = [*columns.text_offset[1:], math.inf]
    found = [
        logprob
        for end, logprob in zip(ends, columns.token_logprobs, strict=False)
        if end > border and logprob is not None
    ]
    if not found:
        raise Malformed(f"The answer to task {task.id!r} has no log probability for a choice; the server must echo.")
    return math.fsum(found)


def answer(task: Task, scored: Sequence[float]) -> Answer:
    """The answer whose text is the most likely choice."""
    best = max(range(len(scored)), key=scored.__getitem__)
    return Answer(task.choices[best], logprobs=tuple(max(IMPOSSIBLE, value) for value in scored))
