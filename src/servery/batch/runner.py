"""Works on batches, one after the other, when the server has nothing else to do; goes on where it was after a restart."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from servery.batch.batch_store import BatchStore
from servery.batch.file_store import FileStore, new_file_id
from servery.batch.results import Results
from servery.wire.batches import (
    Batch,
    BatchError,
    BatchErrors,
    BatchLine,
    RequestCounts,
    decode_line,
    encode_refused,
    encode_result,
    encode_unanswered,
)
from servery.wire.errors import ApiError, failed

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request of a batch: what is asked where, for whom, and the id by which the batch's results and the ledger name it.

    `key` is the id of the key that the batch was asked with, empty where none was needed.
    """

    endpoint: str
    body: bytes
    owner: bytes
    request_id: str
    key: str = ""


# Gives the body of the answer to a request; raises `ApiError`.
Answer = Callable[[Asked], Awaitable[bytes]]

MAX_LINES = 50_000
_MAX_ERRORS = 50
_RETRIED = (429, 503)
_SHORTEST_WAIT_S = 0.5


class BatchRunner:
    """Runs the batches of a store, `at_a_time` requests at a time. `run` is to be a task; cancelling it loses nothing."""

    def __init__(
        self,
        batches: BatchStore,
        files: FileStore,
        answer: Answer,
        *,
        at_a_time: int = 16,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._batches = batches
        self._files = files
        self._answer = answer
        self._at_a_time = at_a_time
        self._now = now
        self._woken = asyncio.Event()
        self._current: _Work | None = None

    def wake(self) -> None:
        """There is a new batch."""
        self._woken.set()

    def cancel(self, batch: Batch) -> Batch:
        """End a batch early; what has been answered is kept."""
        changed = self._batches.change(batch.id, status="cancelling")
        if self._current is not None and self._current.batch_id == batch.id:
            self._current.stop()
        self.wake()
        return changed

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            self._woken.clear()
            for batch in self._batches.unfinished():
                await self._work(batch)
            await self._woken.wait()

    async def _work(self, batch: Batch) -> None:
        if batch.status == "validating":
            batch = await self._validated(batch)
        if batch.status == "in_progress":
            batch = await self._answered(batch)
        if batch.status == "cancelling" and batch.finalizing_at is None:
            batch = self._ending(batch)
        if batch.status in ("finalizing", "cancelling"):
            self._finish(batch)

    async def _validated(self, batch: Batch) -> Batch:
        path = self._files.content_path(batch.input_file_id)
        total, errors = await asyncio.to_thread(_checked, path, batch.endpoint)
        if self._batches.read(batch.id).status != "validating":
            return self._batches.read(batch.id)  # cancelled meanwhile
        counts = RequestCounts(total=total)
        if errors:
            return self._batches.change(
                batch.id, status="failed", errors=BatchErrors(data=errors), request_counts=RequestCounts()
            )
        return self._batches.change(batch.id, status="in_progress", request_counts=counts)

    async def _answered(self, batch: Batch) -> Batch:
        work = self._current = _Work(batch, self._batches, self._files, self._answer, self._at_a_time, self._now)
        try:
            await work.run()
        finally:
            self._current = None
            work.close()
        return self._ending(self._batches.read(batch.id))

    def _ending(self, batch: Batch) -> Batch:
        """Choose the ids of the files before they are made, so that a crash in between makes none twice."""
        chosen = {
            f"{kind}_file_id": new_file_id()
            for kind in ("output", "error")
            if (path := self._batches.results_path(batch.id, kind)).is_file() and path.stat().st_size
        }
        is_cancelled = batch.status == "cancelling"
        dated = {"finalizing_at": int(self._now())} if is_cancelled else {"status": "finalizing"}
        return self._batches.change(batch.id, **dated, **chosen)

    def _finish(self, batch: Batch) -> None:
        owner = self._batches.owner(batch.id)
        for kind, file_id in (("output", batch.output_file_id), ("error", batch.error_file_id)):
            path = self._batches.results_path(batch.id, kind)
            if file_id is not None and path.is_file():
                self._files.adopt(path, file_id, owner, f"{batch.id}_{kind}.jsonl", "batch_output")
            path.unlink(missing_ok=True)
        is_expired = batch.status != "cancelling" and self._now() >= batch.expires_at
        status = "cancelled" if batch.status == "cancelling" else "expired" if is_expired else "completed"
        self._batches.change(batch.id, status=status)
        log.info("batch %s is %s: %s", batch.id, status, batch.request_counts)


class _Work:
    """One batch being answered."""

    def __init__(
        self,
        batch: Batch,
        batches: BatchStore,
        files: FileStore,
        answer: Answer,
        at_a_time: int,
        now: Callable[[], float],
    ) -> None:
        self.batch_id = batch.id
        self._batch = batch
        self._batches = batches
        self._path = files.content_path(batch.input_file_id)
        self._answer = answer
        self._now = now
        self._output = Results(batches.results_path(batch.id, "output"))
        self._errors = Results(batches.results_path(batch.id, "error"))
        self._places = asyncio.Semaphore(at_a_time)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopped = False

    def stop(self) -> None:
        """Answer nothing more."""
        self._is_stopped = True
        for task in self._tasks:
            task.cancel()

    async def run(self) -> None:
        """Answer what has no result yet, until all is done, the batch expires or is stopped."""
        self._note()
        try:
            for line in _lines(self._path, self._batch.endpoint):
                if line.custom_id in self._output.done or line.custom_id in self._errors.done:
                    continue
                await self._places.acquire()
                if self._is_stopped:
                    return
                self._start(line)
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            self.stop()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self) -> None:
        """Keep what there is."""
        self._output.close()
        self._errors.close()
        self._note()

    def _start(self, line: BatchLine) -> None:
        task = asyncio.create_task(self._one(line))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._places.release()

    async def _one(self, line: BatchLine) -> None:
        result_id, request_id = f"batch_req_{secrets.token_hex(12)}", f"req_{secrets.token_hex(12)}"
        try:
            body = await self._retried(line, request_id)
        except TimeoutError:
            text = "The batch was not finished in its completion window."
            self._errors.add(line.custom_id, encode_unanswered(result_id, line.custom_id, "batch_expired", text))
        except ApiError as error:
            self._errors.add(line.custom_id, encode_refused(result_id, line.custom_id, request_id, error))
        except Exception as error:
            log.error("a request of batch %s failed", self.batch_id, exc_info=error)
            self._errors.add(
                line.custom_id, encode_refused(result_id, line.custom_id, request_id, failed("The server failed."))
            )
        else:
            self._output.add(line.custom_id, encode_result(result_id, line.custom_id, request_id, 200, body))
        self._note()

    async def _retried(self, line: BatchLine, request_id: str) -> bytes:
        """The answer, after as many attempts as it takes while the server is full or restarts its engine."""
        left_s = self._batch.expires_at - self._now()
        if left_s <= 0:
            raise TimeoutError
        owner = self._batches.owner(self.batch_id)
        key = self._batches.key(self.batch_id)
        asked = Asked(endpoint=self._batch.endpoint, body=bytes(line.body), owner=owner, request_id=request_id, key=key)
        async with asyncio.timeout(left_s):
            while True:
                try:
                    return await self._answer(asked)
                except ApiError as error:
                    is_hopeless = error.is_final and error.retry_after_s is None  # larger than its limit, say
                    if error.status not in _RETRIED or is_hopeless:
                        raise
                    await asyncio.sleep(max(_SHORTEST_WAIT_S, error.retry_after_s or 0.0))

    def _note(self) -> None:
        total = self._batch.request_counts.total
        self._batches.note(self.batch_id, RequestCounts(total, len(self._output.done), len(self._errors.done)))


def _checked(path: Path, endpoint: str) -> tuple[int, list[BatchError]]:
    """How many requests a file has, and what is wrong with it."""
    errors: list[BatchError] = []
    seen: set[str] = set()
    with contextlib.suppress(_TooManyErrors):
        for number, text in _numbered(path):
            try:
                line = decode_line(text, endpoint)
            except ApiError as error:
                _add(
                    errors,
                    BatchError(code=error.code or "invalid", message=error.message, line=number, param=error.param),
                )
                continue
            if line.custom_id in seen:
                message = f"The custom_id '{line.custom_id[:100]}' is that of an earlier line; each needs its own."
                _add(errors, BatchError(code="duplicate_custom_id", message=message, line=number, param="custom_id"))
            seen.add(line.custom_id)
            if len(seen) > MAX_LINES:
                message = f"The file has more than {MAX_LINES} requests; split it."
                return 0, [BatchError(code="too_many_requests", message=message)]
    if not seen and not errors:
        errors.append(
            BatchError(code="empty_file", message="The file has no requests; write one JSON object per line.")
        )
    return len(seen), errors


class _TooManyErrors(Exception):
    """Enough is known."""


def _add(errors: list[BatchError], error: BatchError) -> None:
    errors.append(error)
    if len(errors) == _MAX_ERRORS:
        raise _TooManyErrors


def _lines(path: Path, endpoint: str) -> Iterator[BatchLine]:
    """The requests of a file that has been checked."""
    for _, text in _numbered(path):
        yield decode_line(text, endpoint)


def _numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, with their numbers."""
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if text.strip():
                yield number, text.strip()
