"""What is wrong with one batch, or with the disk for a while, keeps no other batch from being answered."""

import asyncio
import errno
from pathlib import Path
from typing import Any

import pytest

from servery.batch import batch_store, file_store
from servery.batch.file_store import FileStore
from servery.batch.work import Asked
from servery.wire.batches import Batch, RequestCounts
from servery.wire.errors import ApiError
from tests.batch.full_disk import files_up_to
from tests.batch.test_runner import ME, World, echo, line


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servery.batch.runner._FIRST_PAUSE_S", 0.0)


def reason(batch: Batch) -> tuple[str, str]:
    assert batch.errors is not None
    [error] = batch.errors.data
    return error.code, error.message


async def long(asked: Asked) -> bytes:
    if b"long" in asked.body:
        return b'"' + b"x" * 3000 + b'"'
    return await echo(asked)


def test_a_disk_that_does_not_take_a_result_fails_that_batch_alone(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path, long)
        first = world.begin(line("a"), *(line(f"b{i}", "long") for i in range(50)))
        with files_up_to(2000):  # enough for what is told of a batch
            second = world.begin(line("c"))
            done = await world.ended(second)
            failed = world.batches.read(first.id)

        assert (done.status, failed.status, failed.request_counts) == ("completed", "failed", RequestCounts(51, 1, 0))
        code, message = reason(failed)
        assert code == "insufficient_storage"
        assert message.startswith("The server's disk failed: File too large.")
        assert set(world.results(failed.output_file_id)) == {"a"}, "half a line is none"
        assert world.runner.faults == 1

    asyncio.run(story())


def test_a_batch_without_its_file_fails_alone(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path, echo)
        first = world.begin(line("a"))
        world.files.content_path(first.input_file_id).unlink()
        assert (await world.ended(world.begin(line("b")))).status == "completed"
        failed = world.batches.read(first.id)
        assert (failed.status, failed.output_file_id) == ("failed", None)
        assert "No such file or directory" in reason(failed)[1]

    asyncio.run(story())


def test_results_that_do_not_fit_fail_the_batch_and_are_counted(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path, long)
        world.files = FileStore(tmp_path / "small", 2000, 1000, world.clock)
        world.runner = type(world.runner)(world.batches, world.files, long, at_a_time=1, now=world.clock)
        failed = await world.ended(world.begin(line("a"), line("b", "long")))

        assert (failed.status, failed.request_counts) == ("failed", RequestCounts(2, 1, 0))
        assert reason(failed)[0] == "file_too_large"
        assert "do not fit into the 2000 bytes" in reason(failed)[1]
        assert set(world.results(failed.output_file_id)) == {"a"}
        assert world.files.room.taken_bytes == sum(path.stat().st_size for path in (tmp_path / "small").glob("*.data"))
        upload = world.files.upload()
        with pytest.raises(ApiError, match="are taken, uploads and batches under way included"):
            upload.write(b"x" * 900 * 2)
        upload.abandon()

    asyncio.run(story())


def test_results_of_an_earlier_run_are_counted(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path, echo)
        batch = world.begin(line("a"), line("b"))
        await world.until(batch, lambda each: each.status == "in_progress")
        whole, half = b'{"custom_id": "a", "response": null}\n', b'{"custom_id": "b", "re'
        world.batches.results_path(batch.id, "output").write_bytes(whole + half)
        given = world.files.get(ME, batch.input_file_id).bytes
        world.restart()
        assert world.files.room.taken_bytes == given + len(whole + half)
        done = await world.ended(batch)
        kept = sum(path.stat().st_size for path in (tmp_path / "files").glob("*.data"))
        assert (done.status, world.files.room.taken_bytes) == ("completed", kept)

    asyncio.run(story())


@pytest.mark.parametrize("module", [batch_store, file_store])
def test_what_cannot_be_written_now_is_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any
) -> None:
    """The batch's own state, or that its results are a file."""
    faults, write = [0], module.write_atomically

    def full(path: Path, data: bytes) -> None:
        if faults[0] < 5 and (b'"status":"finalizing"' in data or b"batch_output" in data):
            faults[0] += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    async def story() -> None:
        world = World(tmp_path, echo)
        batch = world.begin(line("a"), line("b"))
        monkeypatch.setattr(module, "write_atomically", full)
        done = await world.ended(batch)

        assert (faults[0], world.runner.faults, done.status, done.errors) == (5, 5, "completed", None)
        assert set(world.results(done.output_file_id)) == {"a", "b"}

    asyncio.run(story())


def test_results_that_have_gone_are_not_completed(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path, echo)
        batch = world.begin(line("a"))
        world.batches.change(batch.id, status="finalizing", output_file_id="file-gone")
        done = await world.ended(batch)
        assert (done.status, done.output_file_id, reason(done)[0]) == ("failed", None, "internal_error")

    asyncio.run(story())


def test_a_batch_that_is_cancelled_before_its_turn_is_not_computed(tmp_path: Path) -> None:
    asked: list[bytes] = []
    gate = asyncio.Event()

    async def answer(each: Asked) -> bytes:
        asked.append(each.body)
        await gate.wait()
        return b"{}"

    async def story() -> None:
        world = World(tmp_path, answer)
        batches = [world.begin(line(name)) for name in ("a", "b")]
        for batch in batches:
            world.batches.change(batch.id, status="in_progress")
        running = asyncio.create_task(world.runner.run())
        while not asked:  # noqa: ASYNC110
            await asyncio.sleep(0)
        world.runner.cancel(world.batches.read(batches[1].id))
        gate.set()
        await world.seen(batches[1], lambda each: each.status == "cancelled")
        assert (len(asked), world.batches.read(batches[0].id).status) == (1, "completed")
        running.cancel()

    asyncio.run(story())
