"""A server behind an OpenAI-compatible address as the system under evaluation: N requests at a time, with retries."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from servery.bench.address import Address
from servery.bench.client import Client
from servery.bench.dialect import Dialect
from servery.bench.errors import ClientError, CutShort, Malformed, TimedOut, Unreachable, WrongStatus
from servery.evals import choices, wire
from servery.evals.answer import Answer, Failure, OnAnswer
from servery.evals.errors import Abandoned
from servery.evals.task import Task

LOADING_S = 120.0  # how long a server may still be loading its model before that is an error
RETRIES = 4
_TRANSIENT_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_OF_THE_TASK = frozenset({"http_400", "http_413", "http_422"})  # another task may be fine
_IN_A_ROW = 4  # failures per connection after which nobody is there any more

Pause = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a model answers and how it is asked."""

    url: str
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float = 600.0
    concurrency: int = 8


class Remote:
    """Asks one model at an address, with at most `concurrency` requests under way."""

    def __init__(self, endpoint: Endpoint, pause: Pause = asyncio.sleep) -> None:
        address = Address.parse(endpoint.url)
        self._clients = [
            Client(address, endpoint.api_key, endpoint.timeout_s) for _ in range(max(1, endpoint.concurrency))
        ]
        self._free = list(self._clients)
        self._has_room = asyncio.Semaphore(len(self._clients))
        self._pause = pause
        self._dialect = Dialect()
        self._failures_in_a_row = 0
        self.model = endpoint.model or ""

    async def connect(self) -> None:
        """Wait until the server has loaded, and learn the model's name. Raises `ClientError`."""
        client = self._clients[0]
        await client.wait_until_ready(LOADING_S)
        if not self.model:
            names = await client.models()
            if not names:
                raise Malformed(f"{client.address} lists no model; name one with --model.")
            self.model = names[0]

    async def answer(self, tasks: Sequence[Task], on_answer: OnAnswer) -> None:
        """Ask all tasks. Raises `Abandoned` when so many failed in a row that going on makes no sense."""
        waiting = iter(tasks)

        async def work() -> None:
            for task in waiting:  # shared: each worker takes the next one
                found = await self._answer(task)
                await on_answer(task, found)
                self._judge_health(found)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in self._clients:
                    group.create_task(work())
        except ExceptionGroup as group_error:
            raise group_error.exceptions[0] from None

    async def ask(self, endpoint: str, request: dict[str, Any]) -> Any:
        """The JSON answer to one request, after retries where the failure may pass. Raises `ClientError`."""
        async with self._has_room:
            client = self._free.pop()
            try:
                return await self._retry(client, endpoint, {"model": self.model, **request})
            finally:
                self._free.append(client)

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            client.close()

    async def _answer(self, task: Task) -> Answer | Failure:
        try:
            if task.scorer != "choice":
                return wire.read_answer(await self.ask(*wire.request(task)), task)
            if task.is_chat:
                return choices.read_first_token(await self.ask(*choices.first_token_request(task)), task)
            return await self._likelihoods(task)
        except ClientError as error:
            return Failure(error.kind, str(error))

    async def _likelihoods(self, task: Task) -> Answer:
        scored = [
            choices.read_echo(await self.ask(*choices.echo_request(task, choice)), task) for choice in task.choices
        ]
        return choices.answer(task, scored)

    async def _retry(self, client: Client, endpoint: str, request: dict[str, Any]) -> Any:
        for attempt in range(RETRIES):
            try:
                return await self._speak(client, endpoint, request)
            except ClientError as error:
                if not _may_pass(error):
                    raise
            await self._pause(random.uniform(0.5, 1.0) * 2**attempt)
        return await self._speak(client, endpoint, request)

    async def _speak(self, client: Client, endpoint: str, request: dict[str, Any]) -> Any:
        """Ask in the words that this server takes, learning them on the way."""
        while True:
            dialect = self._dialect
            try:
                return await client.post(endpoint, dialect.speak(request))
            except WrongStatus as error:
                learnt = dialect.learn(request, error)
                if learnt is None:
                    raise
                self._dialect = learnt

    def _judge_health(self, found: Answer | Failure) -> None:
        if not isinstance(found, Failure) or found.kind in _OF_THE_TASK:
            self._failures_in_a_row = 0
            return
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= _IN_A_ROW * len(self._clients):
            raise Abandoned(
                f"{self._failures_in_a_row} requests in a row failed, the last with: {found.message} "
                "What was answered is kept; the same command goes on from there."
            )


def _may_pass(error: ClientError) -> bool:
    if isinstance(error, WrongStatus):
        return error.status in _TRANSIENT_STATUS
    return isinstance(error, Unreachable | CutShort | TimedOut)
