"""What a system answered to a task, or why it did not."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from servery.evals.task import Task


@dataclass(frozen=True, slots=True)
class Answer:
    """`logprobs` are of the task's choices, in their order (natural), where the scorer asks for them."""

    text: str
    finish_reason: str | None = None
    logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """No answer: the kind of error (a word for counting) and its message."""

    kind: str
    message: str


OnAnswer = Callable[[Task, Answer | Failure], Awaitable[None]]


class Respondent(Protocol):
    """A system under evaluation: a server behind an address, or an engine in this process."""

    async def answer(self, tasks: Sequence[Task], on_answer: OnAnswer) -> None:
        """Answer all tasks in any order, greedily; `on_answer` is told of each as soon as it is there."""
        ...

    def close(self) -> None:
        """Let go of connections or memory."""
        ...
