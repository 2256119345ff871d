"""Batches from beginning to end over a scripted way of answering, with restarts in between."""

import asyncio
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from servery.batch.batch_store import BatchStore
from servery.batch.file_store import FileStore
from servery.batch.runner import BatchRunner
from servery.batch.work import Answer, Asked
from servery.wire.batches import Batch, RequestCounts, decode_batch_request
from servery.wire.errors import ApiError, invalid

ENDPOINT = "/v1/completions"
ME = b"me"


def line(custom_id: str, prompt: str = "hi", **fields: Any) -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": {"prompt": prompt}, **fields})


class World:
    """A folder, a clock, and whoever answers."""

    def __init__(self, folder: Path, answer: Answer) -> None:
        self.folder = folder
        self.answer = answer
        self.now = 1_000.0
        self.restart()

    def restart(self) -> None:
        self.files = FileStore(self.folder / "files", 1 << 20, 1 << 20, self.clock)
        self.batches = BatchStore(self.folder / "batches", self.clock)
        self.runner = BatchRunner(self.batches, self.files, self.answer, at_a_time=2, now=self.clock)

    def clock(self) -> float:
        return self.now

    def begin(self, *lines: str) -> Batch:
        upload = self.files.upload()
        upload.write("\n".join(lines).encode())
        file = self.files.finish(upload, ME, "in.jsonl", "batch")
        body = {"input_file_id": file.id, "endpoint": ENDPOINT, "completion_window": "24h"}
        batch = self.batches.create(ME, decode_batch_request(json.dumps(body).encode()))
        self.runner.wake()
        return batch

    async def until(self, batch: Batch, holds: Callable[[Batch], bool]) -> Batch:
        """Let the runner work until it is so; it is then stopped as by a crash of its task."""
        running = asyncio.create_task(self.runner.run())
        await self.seen(batch, lambda each: running.done() or holds(each))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return self.batches.read(batch.id)

    async def seen(self, batch: Batch, holds: Callable[[Batch], bool]) -> None:
        """Let others run until it is so: the store has nobody to tell."""
        while not holds(self.batches.read(batch.id)):  # noqa: ASYNC110
            await asyncio.sleep(0)

    async def ended(self, batch: Batch) -> Batch:
        return await self.until(batch, lambda each: each.status in ("completed", "failed", "expired", "cancelled"))

    def results(self, file_id: str | None) -> dict[str, Any]:
        if file_id is None:
            return {}
        lines = self.files.content_path(file_id).read_text().splitlines()
        found = {each["custom_id"]: each for each in map(json.loads, lines)}
        assert len(found) == len(lines), "every request has one line"
        return found


async def echo(asked: Asked) -> bytes:
    assert asked.endpoint == ENDPOINT
    return json.dumps({"said": json.loads(asked.body)["prompt"], "id": asked.request_id}).encode()


def test_every_request_gets_its_answer(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path, echo)
        batch = world.begin(*(line(f"r{i}", f"p{i}") for i in range(9)), "")
        done = await world.ended(batch)

        assert (done.status, done.request_counts, done.error_file_id) == ("completed", RequestCounts(9, 9, 0), None)
        results = world.results(done.output_file_id)
        assert {key: each["response"]["body"]["said"] for key, each in results.items()} == {
            f"r{i}": f"p{i}" for i in range(9)
        }
        assert all(each["response"]["status_code"] == 200 and each["error"] is None for each in results.values())
        assert all(each["response"]["request_id"] == each["response"]["body"]["id"] for each in results.values())

    asyncio.run(story())


def test_what_fails_goes_to_the_error_file_with_its_own_status(tmp_path: Path) -> None:
    async def answer(asked: Asked) -> bytes:
        prompt = json.loads(asked.body)["prompt"]
        if prompt == "bad":
            raise invalid("no such thing", "prompt")
        if prompt == "broken":
            raise ZeroDivisionError
        return await echo(asked)

    async def story() -> None:
        world = World(tmp_path, answer)
        done = await world.ended(world.begin(line("a"), line("b", "bad"), line("c", "broken")))

        assert (done.status, done.request_counts) == ("completed", RequestCounts(3, 1, 2))
        errors = world.results(done.error_file_id)
        assert {key: each["response"]["status_code"] for key, each in errors.items()} == {"b": 400, "c": 500}
        assert errors["b"]["response"]["body"]["error"]["message"] == "no such thing"

    asyncio.run(story())


def test_a_full_server_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servery.batch.work._SHORTEST_WAIT_S", 0.0)
    refusals = [ApiError(429, "full", retry_after_s=0.0), ApiError(503, "restarting", retry_after_s=0.0)]

    async def answer(asked: Asked) -> bytes:
        if refusals:
            raise refusals.pop()
        return await echo(asked)

    async def story() -> None:
        world = World(tmp_path, answer)
        done = await world.ended(world.begin(line("a"), line("b")))
        assert done.request_counts == RequestCounts(2, 2, 0)

    asyncio.run(story())


def test_what_is_kept_is_for_the_servers_user_alone(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path, echo)
        await world.ended(world.begin(line("a")))
        world.begin(line("b"))
        kept = [path for path in tmp_path.rglob("*") if path.is_file()]  # noqa: ASYNC240
        assert {oct(stat.S_IMODE(path.stat().st_mode)) for path in kept} == {"0o600"}
        assert {path.suffix for path in kept} >= {".json", ".data"}

    asyncio.run(story())


def test_a_budget_that_is_spent_holds_up_its_own_batch_alone(tmp_path: Path) -> None:
    """A key whose budget is spent waits until midnight, and the batches of others do not."""
    asked: list[str] = []

    async def answer(each: Asked) -> bytes:
        prompt = json.loads(each.body)["prompt"]
        asked.append(prompt)
        if prompt == "poor" and world.now < 50_000.0:
            raise ApiError(429, "spent", code="insufficient_quota", retry_after_s=50_000.0 - world.now, is_final=True)
        return await echo(each)

    world = World(tmp_path, answer)

    async def story() -> None:
        poor = world.begin(*(line(str(number), "poor") for number in range(5)))
        rich = world.begin(line("a", "rich"))
        done = await world.ended(rich)
        assert done.request_counts == RequestCounts(1, 1, 0)
        assert asked == ["poor", "poor", "rich"]  # as many as are asked at a time, and no more
        assert world.batches.read(poor.id).status == "in_progress"
        cancelled = world.begin(line("b", "poor"))
        await world.until(cancelled, lambda each: asked.count("poor") == 3)
        world.runner.cancel(cancelled)
        assert (await world.ended(cancelled)).status == "cancelled"
        world.now = 50_000.0
        assert (await world.ended(poor)).request_counts == RequestCounts(5, 5, 0)

    asyncio.run(story())


def test_what_a_limit_will_never_take_is_not_asked_again(tmp_path: Path) -> None:
    async def answer(asked: Asked) -> bytes:
        raise ApiError(429, "more than is ever allowed", is_final=True)

    async def story() -> None:
        world = World(tmp_path, answer)
        done = await world.ended(world.begin(line("a")))
        assert done.request_counts == RequestCounts(1, 0, 1)

    asyncio.run(story())


@pytest.mark.parametrize(
    ("lines", "code", "at"),
    [
        ([line("a"), "{"], "invalid_json", 2),
        ([line("a"), "", line("a")], "duplicate_custom_id", 3),
        ([line("")], "invalid_value", 1),
        ([line("a", url="/v1/embeddings")], "mismatched_endpoint", 1),
        ([line("a", method="GET")], "invalid_value", 1),
        ([line("a", priority=1)], "unknown_parameter", 1),
        ([""], "empty_file", None),
    ],
)
def test_a_file_with_a_mistake_is_refused_as_a_whole(
    tmp_path: Path, lines: list[str], code: str, at: int | None
) -> None:
    async def story() -> None:
        world = World(tmp_path, echo)
        done = await world.ended(world.begin(*lines))

        assert (done.status, done.output_file_id) == ("failed", None)
        assert done.errors is not None
        assert [(error.code, error.line) for error in done.errors.data] == [(code, at)]
        assert "request body" not in done.errors.data[0].message, "nobody sent one: it is a line of a file"

    asyncio.run(story())


def test_after_a_restart_only_what_has_no_result_is_answered(tmp_path: Path) -> None:
    prompts: list[str] = []
    gate = asyncio.Event()

    async def answer(asked: Asked) -> bytes:
        prompts.append(json.loads(asked.body)["prompt"])
        if len(prompts) > 4 and not gate.is_set():
            await gate.wait()
        return await echo(asked)

    async def story() -> None:
        world = World(tmp_path, answer)
        batch = world.begin(*(line(f"r{i}", f"p{i}") for i in range(9)))
        await world.until(batch, lambda each: each.request_counts.completed == 4)
        with world.batches.results_path(batch.id, "output").open("ab") as file:
            file.write(b'{"custom_id": "r7", "cut in the mid')  # as a crash leaves it
        first, prompts[:] = list(prompts), []
        gate.set()
        world.restart()
        done = await world.ended(batch)

        assert (done.status, done.request_counts) == ("completed", RequestCounts(9, 9, 0))
        assert sorted(prompts) == sorted({f"p{i}" for i in range(9)} - set(first[:4]))
        assert set(world.results(done.output_file_id)) == {f"r{i}" for i in range(9)}

    asyncio.run(story())


def test_a_crash_while_the_files_are_made_loses_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path, echo)
        batch = world.begin(line("a"))
        await world.until(batch, lambda each: each.status == "in_progress")
        world.batches.results_path(batch.id, "output").write_bytes(b'{"custom_id": "a", "response": null}\n')
        world.batches.change(batch.id, status="finalizing", output_file_id="file-chosen")
        world.restart()
        done = await world.ended(batch)

        assert (done.status, done.output_file_id) == ("completed", "file-chosen")
        assert set(world.results("file-chosen")) == {"a"}
        world.batches.change(batch.id, status="finalizing")  # it crashed after the file was made
        world.restart()
        assert set(world.results((await world.ended(batch)).output_file_id)) == {"a"}

    asyncio.run(story())


def test_a_cancelled_batch_keeps_what_was_answered(tmp_path: Path) -> None:
    async def answer(asked: Asked) -> bytes:
        if json.loads(asked.body)["prompt"] == "wait":
            await asyncio.Event().wait()
        return await echo(asked)

    async def story() -> None:
        world = World(tmp_path, answer)
        batch = world.begin(line("a"), line("b", "wait"), line("c", "wait"), line("d", "wait"))
        running = asyncio.create_task(world.runner.run())
        await world.seen(batch, lambda each: each.request_counts.completed == 1)
        assert world.runner.cancel(world.batches.read(batch.id)).status == "cancelling"
        await world.seen(batch, lambda each: each.status == "cancelled")
        done = world.batches.read(batch.id)
        running.cancel()

        assert set(world.results(done.output_file_id)) == {"a"}
        assert (done.cancelled_at, done.request_counts) == (1000, RequestCounts(4, 1, 0))

    asyncio.run(story())


def test_a_batch_whose_time_is_up_says_so_for_each_request(tmp_path: Path) -> None:
    async def never(asked: Asked) -> bytes:
        await asyncio.Event().wait()
        return b""

    async def story() -> None:
        world = World(tmp_path, never)
        batch = world.begin(line("a"), line("b"))
        await world.until(batch, lambda each: each.status == "in_progress")
        world.now += 25 * 60 * 60
        world.restart()
        done = await world.ended(batch)

        assert done.status == "expired"
        errors = world.results(done.error_file_id)
        assert {key: each["error"]["code"] for key, each in errors.items()} == {
            "a": "batch_expired",
            "b": "batch_expired",
        }

    asyncio.run(story())
