"""Works on batches, one after the other, when the server has nothing else to do; goes on where it was after a restart."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from servery.batch.batch_store import ENDED, BatchStore, NotWritten
from servery.batch.file_store import FileStore, new_file_id
from servery.batch.requests import checked
from servery.batch.room import NoRoom
from servery.batch.work import Answer, Work
from servery.wire.batches import Batch, BatchError, BatchErrors, RequestCounts

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
# How long a batch whose requests have to wait is left alone, at most: limits may be raised.
_LONGEST_HELD_S = 60.0


class _LostResults(Exception):
    """What was collected is not there any more."""


class BatchRunner:
    """Runs the batches of a store, `at_a_time` requests at a time. `run` is to be a task; cancelling it loses nothing.

    A batch whose requests have to wait long, because its key has nothing left of a limit, lets the others go first.
    A batch that cannot go on fails with the reason, and the others go on. While its state cannot be written, or no files
    be made of its results, that is tried again and again. `faults` counts all of these.
    """

    def __init__(
        self,
        batches: BatchStore,
        files: FileStore,
        answer: Answer,
        *,
        at_a_time: int = 16,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Raises `OSError`."""
        self.faults = 0
        self._batches = batches
        self._files = files
        self._answer = answer
        self._at_a_time = at_a_time
        self._now = now
        self._woken = asyncio.Event()
        self._current: Work | None = None
        self._held_until_s: dict[str, float] = {}  # whose requests have to wait
        self._failing: dict[str, BatchErrors] = {}  # why a batch has failed, until that is written
        files.room.find(batches.collected_bytes())

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
        """Work until cancelled, whatever happens."""
        rounds = 0
        while True:
            self._woken.clear()
            rounds = 0 if await self._round() else rounds + 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._rest_s(rounds)):
                    await self._woken.wait()

    async def _round(self) -> bool:
        """Work on every batch; whether all could be brought to their ends."""
        is_done = True
        for batch in self._batches.unfinished():
            # Why it has failed is written before others take their time.
            is_done = (await self._is_done(batch.id) or await self._is_done(batch.id)) and is_done
        return is_done

    def _rest_s(self, rounds: int) -> float | None:
        """How long to rest, None until woken: until a round that left something undone is tried again, or a batch was held."""
        now = self._now()
        waits = [max(0.0, until_s - now) for until_s in self._held_until_s.values()]
        if rounds > 0:
            waits.append(_pause_s(rounds))
        return min(waits, default=None)

    def _is_held(self, batch_id: str) -> bool:
        """Whether its requests have to wait on; when they need not any more, nobody waits for them either."""
        is_held = self._now() < self._held_until_s.get(batch_id, 0.0)
        if not is_held:
            self._held_until_s.pop(batch_id, None)
        return is_held

    async def _is_done(self, batch_id: str) -> bool:
        """Work on a batch; whether it is at its end, or waits for its limits."""
        try:
            await self._work(batch_id)
        except Exception as error:  # the one boundary of a batch: whatever it is, the others go on
            log.exception("batch %s could not go on", batch_id)
            self._take_note(batch_id, error)
            return False
        return True

    def _take_note(self, batch_id: str, error: Exception) -> None:
        """A batch fails, unless all it lacks is that the disk takes its state or its files: that is tried again."""
        self.faults += 1
        status = self._batches.read(batch_id).status
        is_ending = status in ("finalizing", "cancelling") and isinstance(error, OSError)
        if not is_ending and not isinstance(error, NotWritten):
            self._failing.setdefault(batch_id, BatchErrors(data=[self._reason(error)]))

    def _reason(self, error: Exception) -> BatchError:
        if isinstance(error, NoRoom):
            message = (
                f"The results do not fit into the {self._files.room.max_bytes} bytes that all files together may have. "
                "Delete files, or raise --max-files, and make the batch again for what has no result."
            )
            return BatchError(code="file_too_large", message=message)
        if isinstance(error, OSError):
            message = (
                f"The server's disk failed: {error.strerror or error}. Make the batch again for what has no result when "
                "the server's operator has freed space, or mended what else is wrong with the folder of --files."
            )
            return BatchError(code="insufficient_storage", message=message)
        return BatchError(code="internal_error", message="The server failed.")

    async def _work(self, batch_id: str) -> None:
        batch = self._batches.read(batch_id)  # not as it was when the round began: it may be cancelled since
        if batch.status in ENDED:
            return
        is_held = self._is_held(batch_id)
        failing = self._failing.get(batch_id)
        if failing is not None and batch.errors is None:
            batch = self._ending(batch, status="finalizing", errors=failing)
        if batch.status == "validating":
            batch = await self._validated(batch)
        if batch.status == "in_progress" and not is_held:
            batch = await self._answered(batch)
        if batch.status == "cancelling" and batch.finalizing_at is None:
            batch = self._ending(batch, finalizing_at=int(self._now()))
        if batch.status in ("finalizing", "cancelling"):
            self._finish(batch)
        self._failing.pop(batch_id, None)
        if batch.status != "in_progress":
            self._held_until_s.pop(batch_id, None)

    async def _validated(self, batch: Batch) -> Batch:
        path = self._files.content_path(batch.input_file_id)
        total, errors = await asyncio.to_thread(checked, path, batch.endpoint)
        if self._batches.read(batch.id).status != "validating":
            return self._batches.read(batch.id)  # cancelled meanwhile
        counts = RequestCounts(total=total)
        if errors:
            return self._batches.change(
                batch.id, status="failed", errors=BatchErrors(data=errors), request_counts=RequestCounts()
            )
        return self._batches.change(batch.id, status="in_progress", request_counts=counts)

    async def _answered(self, batch: Batch) -> Batch:
        work = self._current = Work(
            batch, self._batches, self._files, answer=self._answer, at_a_time=self._at_a_time, now=self._now
        )
        try:
            held_s = await work.run()
        finally:
            self._current = None
            work.close()
        batch = self._batches.read(batch.id)
        if batch.status == "cancelling":
            return batch
        if held_s is not None:
            log.info("batch %s waits, because its requests are to be asked again in %.0f s", batch.id, held_s)
            self._held_until_s[batch.id] = self._now() + min(held_s, _LONGEST_HELD_S)
            return batch
        return self._ending(batch, status="finalizing")

    def _ending(self, batch: Batch, **changes: object) -> Batch:
        """Choose the ids of the files before they are made, so that a crash in between makes none twice."""
        chosen = {
            f"{kind}_file_id": new_file_id()
            for kind in ("output", "error")
            if (path := self._batches.results_path(batch.id, kind)).is_file() and path.stat().st_size
        }
        return self._batches.change(batch.id, **changes, **chosen)

    def _finish(self, batch: Batch) -> None:
        changes: dict[str, object] = {}
        for kind, file_id in (("output", batch.output_file_id), ("error", batch.error_file_id)):
            if not self._is_filed(batch, kind, file_id):
                changes[f"{kind}_file_id"] = None
        changes["status"] = status = self._last_status(batch)
        self._batches.change(batch.id, **changes)
        log.info("batch %s is %s: %s", batch.id, status, batch.request_counts)

    def _is_filed(self, batch: Batch, kind: str, file_id: str | None) -> bool:
        """Make a file of what was collected, if that has not been done; whether there is one."""
        path = self._batches.results_path(batch.id, kind)
        if file_id is None:
            path.unlink(missing_ok=True)  # it is empty
            return False
        if path.is_file():
            owner, filename = self._batches.owner(batch.id), f"{batch.id}_{kind}.jsonl"
            self._files.adopt(path, file_id=file_id, owner=owner, filename=filename, purpose="batch_output")
        elif not self._files.has(file_id) and batch.errors is None:
            raise _LostResults(f"{path} is not there")
        return self._files.has(file_id)

    def _last_status(self, batch: Batch) -> str:
        if batch.errors is not None:
            return "failed"
        if batch.status == "cancelling":
            return "cancelled"
        return "expired" if self._now() >= batch.expires_at else "completed"


def _pause_s(rounds: int) -> float:
    """How long to rest after so many rounds in a row that left something undone."""
    return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(rounds - 1, 10))
