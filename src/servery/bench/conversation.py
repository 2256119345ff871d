"""A conversation: each turn is asked with the server's own answers to the turns before, as users of a chat do.

Answers that were made up beforehand would be no part of what the server has cached, and their lengths would be wrong.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from servery.bench.client import Client
from servery.bench.sample import Sample, ask


@dataclass(frozen=True, slots=True)
class Turn:
    """A further message of the user's, and the fields of the request that differ; asked `think_s` after the last answer."""

    content: str
    think_s: float
    fields: dict[str, Any]

    def after(self, request: dict[str, Any], answer: str) -> dict[str, Any]:
        """The request of this turn, behind `request` and what was answered to it."""
        said = {"role": "assistant", "content": answer}
        messages = [*request["messages"], said, {"role": "user", "content": self.content}]
        return {**request, **self.fields, "messages": messages}


async def converse(
    client: Client, request: dict[str, Any], turns: Sequence[Turn], due: float | None = None
) -> AsyncGenerator[Sample, None]:
    """A sample for `request` and, one after the other, for each of `turns`; none behind an answer that did not come whole.

    `due` is when the first was to be sent, None in a closed loop. A further one is due when its user has thought.
    """
    heard: list[str] = []
    sample = await ask(client, request, due, heard.append)
    yield sample
    for number, turn in enumerate(turns, start=2):
        if not sample.is_good:
            return
        request = turn.after(request, "".join(heard))
        heard.clear()
        again = perf_counter() + turn.think_s
        await asyncio.sleep(turn.think_s)
        sample = await ask(client, request, None if due is None else again, heard.append)
        sample.turn = number
        yield sample
