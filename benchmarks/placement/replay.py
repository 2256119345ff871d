"""A trace sent open-loop: every request at its time, whatever became of those before."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from benchmarks.placement.fleet import MODEL
from benchmarks.placement.trace import Arrival, Messages
from servery.bench.address import Address
from servery.bench.client import Client
from servery.bench.errors import ClientError, WrongStatus

_TIMEOUT_S = 90.0
_SHED = 429


@dataclass(frozen=True, slots=True)
class Sample:
    """One request: when it was due, and what came of it. Times are seconds from then; None for what never came."""

    at_s: float
    ttft_s: float | None = None
    tpot_s: float | None = None
    tokens: int = 0
    prompt_tokens: int = 0
    is_shed: bool = False
    error: str | None = None

    def is_good(self, ttft_s: float, tpot_s: float) -> bool:
        """Whether it is within the SLO."""
        if self.error is not None or self.ttft_s is None or self.ttft_s > ttft_s:
            return False
        return self.tpot_s is None or self.tpot_s <= tpot_s


class Clients:
    """Connections to one server, as many as are needed at a time, each used again."""

    def __init__(self, port: int, mark: str) -> None:
        """`mark` stands in front of every prompt, so that no cache has it from a run before."""
        self._address = Address.parse(f"http://127.0.0.1:{port}")
        self._idle: list[Client] = []
        self._mark = mark

    async def ask(self, messages: Messages, tokens: int, due_s: float, at_s: float = 0.0) -> Sample:
        """One request that was due at `due_s` (of `perf_counter`)."""
        client = self._idle.pop() if self._idle else Client(self._address, timeout_s=_TIMEOUT_S)
        first_s = last_s = None
        usage = None
        try:
            async with aclosing(client.chat(self._request(messages, tokens))) as deltas:
                async for delta in deltas:
                    if delta.text:
                        first_s, last_s = first_s or delta.at, delta.at
                    usage = delta.usage or usage
        except ClientError as error:
            client.close()
            is_shed = isinstance(error, WrongStatus) and error.status == _SHED
            return Sample(at_s, is_shed=is_shed, error=str(error))
        self._idle.append(client)
        if first_s is None or last_s is None or usage is None:
            return Sample(at_s, error="an answer without text or usage")
        count = usage.completion_tokens
        tpot_s = (last_s - first_s) / (count - 1) if count > 1 else None
        return Sample(at_s, first_s - due_s, tpot_s, count, usage.prompt_tokens)

    def close(self) -> None:
        """Let go of the connections."""
        for client in self._idle:
            client.close()

    def _request(self, messages: Messages, tokens: int) -> dict[str, Any]:
        first = {**messages[0], "content": f"{self._mark} {messages[0]['content']}"}
        return {
            "model": MODEL, "messages": [first, *messages[1:]], "max_tokens": tokens, "temperature": 0.0,
            "ignore_eos": True, "stream_options": {"include_usage": True},
        }  # fmt: skip


async def replay(clients: Clients, arrivals: Sequence[Arrival]) -> tuple[list[Sample], float]:
    """What came of each, in the order of their being due; and the Unix time of the beginning."""
    began_s, began_at = perf_counter(), time.time()
    tasks = []
    for arrival in arrivals:
        await asyncio.sleep(max(0.0, began_s + arrival.at_s - perf_counter()))
        asked = clients.ask(arrival.messages, arrival.tokens, began_s + arrival.at_s, arrival.at_s)
        tasks.append(asyncio.create_task(asked))
    return list(await asyncio.gather(*tasks)), began_at


async def capacity(clients: Clients, arrivals: Sequence[Arrival], together: int) -> float:
    """Requests per second when `together` clients ask one after the other."""
    waiting, began_s = list(reversed(arrivals)), perf_counter()

    async def one_after_the_other() -> None:
        while waiting:
            arrival = waiting.pop()
            await clients.ask(arrival.messages, arrival.tokens, perf_counter())

    await asyncio.gather(*[one_after_the_other() for _ in range(together)])
    return len(arrivals) / (perf_counter() - began_s)


async def calm(clients: Clients, arrivals: Sequence[Arrival]) -> list[Sample]:
    """What comes of each when there is no other."""
    return [await clients.ask(each.messages, each.tokens, perf_counter()) for each in arrivals]
