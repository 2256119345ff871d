"""Clients by chance: what each asked, what it was told, and batches beside them."""

import asyncio
import json
import random
import secrets
from dataclasses import dataclass, field
from typing import Any

from benchmarks.chaos.client import Client, Heard, Temper
from benchmarks.chaos.questions import PROMPTS, Question, drawn, repeatable
from benchmarks.chaos.reading import Told, read
from benchmarks.chaos.stage import MODELS

_TEMPERS = {Temper.PATIENT: 7.0, Temper.SLOW: 1.0, Temper.LEAVES: 1.2, Temper.RESETS: 0.8}
_LONGEST_STAY_S = 3.0
_BATCH_LINES = 6
_ENDED = ("completed", "failed", "expired", "cancelled")
# References are asked for so many at a time.
_TOGETHER = 4


@dataclass(frozen=True, slots=True)
class Seen:
    """One exchange as its client saw it."""

    id: str
    question: Question
    temper: Temper
    heard: Heard
    told: Told


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as it ended: its status, and by "prompt/line" the answers as request id, text and usage; errors by line."""

    status: str
    lines: int
    answers: dict[str, tuple[str, str, tuple[int, int] | None]]
    errors: dict[str, str]


@dataclass(slots=True)
class Load:
    """Questions at `rate` a second on average, each by a client of its own; all that was seen is kept."""

    client: Client
    chance: random.Random
    rate: float
    seen: list[Seen] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    _clients: set[asyncio.Task[None]] = field(default_factory=set)

    async def references(self, most_tokens: int) -> None:
        """Ask one of every kind while nothing goes wrong."""
        waiting = repeatable("chat", most_tokens)

        async def one_after_the_other() -> None:
            while waiting:
                await self._ask(waiting.pop(), Temper.PATIENT, 0.0)

        await asyncio.gather(*[one_after_the_other() for _ in range(_TOGETHER)])

    async def run(self, for_s: float) -> None:
        """Questions for so long (Poisson), then wait until the last one is answered."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + for_s
        while True:
            gap_s = self.chance.expovariate(self.rate)
            if loop.time() + gap_s >= end_s:
                break
            await asyncio.sleep(gap_s)
            temper = self.chance.choices(tuple(_TEMPERS), tuple(_TEMPERS.values()))[0]
            stay_s = self.chance.choice((0.0, self.chance.uniform(0.0, _LONGEST_STAY_S)))
            task = asyncio.create_task(self._ask(drawn(self.chance, MODELS), temper, stay_s))
            self._clients.add(task)
            task.add_done_callback(self._clients.discard)
        await asyncio.gather(*self._clients)

    async def batch_after_batch(self, pause_s: float) -> None:
        """Batches until cancelled, one at a time; one that is under way then is waited for by `last_batch`."""
        while True:
            await asyncio.sleep(pause_s)
            await asyncio.shield(self._begin_batch())

    async def last_batch(self) -> None:
        """Wait for the batch that is under way, if there is one."""
        await asyncio.gather(*self._clients)

    def _begin_batch(self) -> "asyncio.Task[None]":
        task = asyncio.create_task(self._batch())
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)
        return task

    async def _ask(self, question: Question, temper: Temper, stay_s: float) -> None:
        name = secrets.token_hex(8)
        heard = await self.client.ask(
            question.path, question.body(), {"x-request-id": name}, temper=temper, leaves_after_s=stay_s
        )
        told = Told()
        if heard.status is not None:
            told = read(question.api, heard.body, is_stream=question.is_stream, status=heard.status)
        heard.body = b""  # thousands of them are kept
        self.seen.append(Seen(name, question, temper, heard, told))

    async def _batch(self) -> None:
        prompts = [each for each in PROMPTS if each.tokens <= 24]
        questions = [
            Question("chat", "chat", prompt, "greedy", is_stream=False)
            for prompt in self.chance.choices(prompts, k=_BATCH_LINES)
        ]
        lines = [
            {"custom_id": str(at), "method": "POST", "url": each.path, "body": json.loads(each.body())}
            for at, each in enumerate(questions)
        ]
        file = await self._upload("\n".join(json.dumps(line) for line in lines).encode())
        asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = await self._json("/v1/batches", json.dumps(asked).encode())
        while batch["status"] not in _ENDED:
            await asyncio.sleep(0.5)
            batch = await self._json(f"/v1/batches/{batch['id']}")
        answers, errors = {}, {}
        for line in await self._lines(batch.get("output_file_id")):
            body, prompt = line["response"]["body"], questions[int(line["custom_id"])].prompt
            told = read("chat", json.dumps(body).encode(), is_stream=False, status=200)
            answers[f"{prompt.number}/{line['custom_id']}"] = (line["response"]["request_id"], told.text, told.usage)
        for line in await self._lines(batch.get("error_file_id")):
            errors[line["custom_id"]] = json.dumps(line.get("error") or line.get("response"))
        self.batches.append(Batch(batch["status"], len(lines), answers, errors))

    async def _upload(self, data: bytes) -> str:
        mark = secrets.token_hex(8)
        part = (
            f'--{mark}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--{mark}\r\n'
            'content-disposition: form-data; name="file"; filename="asked.jsonl"\r\n\r\n'
        ).encode()
        body = part + data + f"\r\n--{mark}--\r\n".encode()
        kind = {"content-type": f"multipart/form-data; boundary={mark}"}
        return str((await self._json("/v1/files", body, kind))["id"])

    async def _lines(self, file: str | None) -> list[Any]:
        if file is None:
            return []
        heard = await self.client.ask(f"/v1/files/{file}/content")
        return [json.loads(line) for line in heard.body.splitlines()]

    async def _json(
        self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        heard = await self.client.ask(path, body, headers)
        if heard.status != 200:
            raise RuntimeError(f"{path} gave {heard.status}: {heard.body[:300]!r} ({heard.lost})")
        return dict(json.loads(heard.body))
