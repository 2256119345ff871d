"""One batch being answered."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from servery.batch.batch_store import BatchStore
from servery.batch.file_store import FileStore
from servery.batch.requests import lines
from servery.batch.results import Results
from servery.wire.batches import (
    Batch,
    BatchLine,
    RequestCounts,
    encode_refused,
    encode_result,
    encode_unanswered,
)
from servery.wire.errors import ApiError, failed

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request of a batch: what is asked where, for whom, and the id by which the batch's results and the ledger name it.

    `key` is the id of the key that the batch `batch_id` was asked with, empty where none was needed.
    """

    endpoint: str
    body: bytes
    owner: bytes
    request_id: str
    key: str = ""
    batch_id: str = ""


# Gives the body of the answer to a request; raises `ApiError`.
Answer = Callable[[Asked], Awaitable[bytes]]

_RETRIED = (429, 503)
_SHORTEST_WAIT_S = 0.5
# Who is told to wait longer than this (a budget is spent, say) makes room for other batches meanwhile.
_LONGEST_WAIT_S = 5.0


class _Held(Exception):
    """A request is not to be asked again before `wait_s` have passed."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(wait_s)
        self.wait_s = wait_s


class Work:
    """One batch being answered, `at_a_time` of its requests at a time; `now` is in Unix seconds."""

    def __init__(
        self,
        batch: Batch,
        batches: BatchStore,
        files: FileStore,
        *,
        answer: Answer,
        at_a_time: int,
        now: Callable[[], float],
    ) -> None:
        """Raises `OSError` when its results cannot be collected."""
        self.batch_id = batch.id
        self._batch = batch
        self._batches = batches
        self._path = files.content_path(batch.input_file_id)
        self._answer = answer
        self._now = now
        with contextlib.ExitStack() as opened:
            self._output = Results(batches.results_path(batch.id, "output"), files.room)
            opened.callback(self._output.close)
            self._errors = Results(batches.results_path(batch.id, "error"), files.room)
            opened.pop_all()
        self._places = asyncio.Semaphore(at_a_time)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopped = False
        self._held_s: float | None = None
        self._fault: BaseException | None = None

    def stop(self) -> None:
        """Answer nothing more."""
        self._is_stopped = True
        for task in self._tasks:
            task.cancel()

    async def run(self) -> float | None:
        """Answer what has no result yet, until all is done, the batch expires or is stopped.

        It also ends when a request has to wait long, behind those that are under way: returns for how many seconds.
        Raises `NoRoom` or `OSError` when a result cannot be kept: nothing more is answered then.
        """
        self._note()
        try:
            await self._answer_all()
        finally:
            self.stop()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._fault is not None:
            raise self._fault
        return self._held_s

    def close(self) -> None:
        """Keep what there is; raises `OSError` when the disk does not."""
        try:
            self._output.close()
        finally:
            self._errors.close()
        self._note()

    async def _answer_all(self) -> None:
        for line in lines(self._path, self._batch.endpoint):
            if line.custom_id in self._output.done or line.custom_id in self._errors.done:
                continue
            await self._places.acquire()
            if self._is_stopped:
                return
            if self._held_s is not None:
                break
            self._start(line)
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, line: BatchLine) -> None:
        task = asyncio.create_task(self._one(line))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._places.release()
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._fault = self._fault or fault
            self.stop()

    async def _one(self, line: BatchLine) -> None:
        """Answer a request and keep its line, unless it has to wait; raises what keeps it from being kept, nothing else."""
        try:
            results, result = await self._result(line)
        except _Held as held:
            self._held_s = max(held.wait_s, self._held_s or 0.0)
            return
        results.add(line.custom_id, result)
        self._note()

    async def _result(self, line: BatchLine) -> tuple[Results, bytes]:
        """The line that tells of a request, and where it belongs; raises `_Held`."""
        result_id, request_id = f"batch_req_{secrets.token_hex(12)}", f"req_{secrets.token_hex(12)}"
        try:
            body = await self._retried(line, request_id)
        except TimeoutError:
            text = "The batch was not finished in its completion window."
            return self._errors, encode_unanswered(result_id, line.custom_id, "batch_expired", text)
        except ApiError as error:
            return self._errors, encode_refused(result_id, line.custom_id, request_id, error)
        except _Held:
            raise
        except Exception as error:
            log.error("a request of batch %s failed", self.batch_id, exc_info=error)
            return self._errors, encode_refused(result_id, line.custom_id, request_id, failed("The server failed."))
        return self._output, encode_result(result_id, line.custom_id, request_id=request_id, status=200, body=body)

    async def _retried(self, line: BatchLine, request_id: str) -> bytes:
        """The answer, after as many attempts as it takes while the server is full or restarts its engine.

        Raises `_Held` when that takes long: other batches may have other limits.
        """
        left_s = self._batch.expires_at - self._now()
        if left_s <= 0:
            raise TimeoutError
        owner = self._batches.owner(self.batch_id)
        key = self._batches.key(self.batch_id)
        asked = Asked(
            endpoint=self._batch.endpoint,
            body=bytes(line.body),
            owner=owner,
            request_id=request_id,
            key=key,
            batch_id=self.batch_id,
        )
        async with asyncio.timeout(left_s):
            while True:
                try:
                    return await self._answer(asked)
                except ApiError as error:
                    is_hopeless = error.is_final and error.retry_after_s is None  # larger than its limit, say
                    if error.status not in _RETRIED or is_hopeless:
                        raise
                    wait_s = max(_SHORTEST_WAIT_S, error.retry_after_s or 0.0)
                    if wait_s > _LONGEST_WAIT_S:
                        raise _Held(min(wait_s, left_s)) from error
                    await asyncio.sleep(wait_s)

    def _note(self) -> None:
        total = self._batch.request_counts.total
        self._batches.note(self.batch_id, RequestCounts(total, len(self._output.done), len(self._errors.done)))
