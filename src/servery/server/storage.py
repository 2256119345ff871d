"""What a server keeps on disk: files, batches, and who works on them."""

import fcntl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar
from urllib.parse import parse_qs

from servery.batch.batch_store import BatchStore
from servery.batch.disk import to_write
from servery.batch.file_store import FileStore
from servery.batch.runner import BatchRunner
from servery.batch.work import Answer, Asked
from servery.engine.request import BACKGROUND
from servery.server.batch_trace import end_batched
from servery.telemetry.batch_metrics import BatchFigures
from servery.telemetry.traces.trace import Trace
from servery.telemetry.traces.tracer import Tracer
from servery.upstream.ask import Api, Ask, new_answer_id, read_head
from servery.upstream.caller import ANYBODY, Caller
from servery.wire.errors import ApiError, invalid, shown, unsupported

_MOST_PER_PAGE = 100
_APIS: Mapping[str, Api] = {
    "/v1/chat/completions": Api.CHAT,
    "/v1/completions": Api.COMPLETIONS,
    "/v1/embeddings": Api.EMBEDDINGS,
    "/v1/responses": Api.RESPONSES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """The files, the batches, and the one who works on them."""

    files: FileStore
    batches: BatchStore
    runner: BatchRunner
    lock: BinaryIO  # held as long as it is open

    @property
    def figures(self) -> BatchFigures:
        """As it is now."""
        return BatchFigures(
            states=self.batches.states(), faults=self.runner.faults, kept_bytes=self.files.room.taken_bytes
        )


def open_storage(
    folder: Path,
    *,
    max_bytes: int,
    max_file_bytes: int,
    answer: Answer,
) -> Storage:
    """The storage in `folder`, as it was left. Raises `OSError`.

    `answer` answers the requests of batches.
    """
    lock = _locked(folder)
    for kept in ("files", "batches"):
        (folder / kept).mkdir(exist_ok=True)
        (folder / kept).chmod(0o700)  # what clients say is nobody's on this machine but the server's
    files = FileStore(folder / "files", max_bytes, max_file_bytes)
    batches = BatchStore(folder / "batches")
    runner = BatchRunner(batches, files, answer)
    return Storage(files=files, batches=batches, runner=runner, lock=lock)


def _locked(folder: Path) -> BinaryIO:
    """Two servers would answer each batch twice; the system lets go of the lock when its holder ends, however it does."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = to_write(folder / "lock")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise BlockingIOError("another server is using it") from None
    return lock


class Answering:
    """Answers the requests of batches in the background.

    `located` tells by which name a model is served, and the base's; `collect` gives the body of an
    answer by what is asked, the request's id and its trace; `caller` tells who has the key of an id now, or raises
    `ApiError`. Each has a trace of its own if there is a `tracer`; `clock` is the gateway's.
    """

    def __init__(
        self,
        located: Callable[[str, Caller], tuple[str, str]],
        collect: Callable[[Ask, str, Trace | None], Awaitable[bytes]],
        caller: Callable[[str], Caller] = lambda key: ANYBODY,
        *,
        tracer: Tracer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._located = located
        self._collect = collect
        self._caller = caller
        self._tracer = tracer
        self._clock = clock

    async def answer(self, asked: Asked) -> bytes:
        """The body of the answer; raises `ApiError`."""
        if self._tracer is None:
            return await self._answered(asked, None)
        trace, began_s, error = self._tracer.begin({}), self._clock(), None
        try:
            return await self._answered(asked, trace)
        except ApiError as refusal:
            error = str(refusal.code)
            raise
        finally:
            end_batched(self._tracer, trace, asked, (began_s, self._clock()), error)

    async def _answered(self, asked: Asked, trace: Trace | None) -> bytes:
        head = read_head(asked.body)
        if head.stream:
            raise unsupported("stream", "nobody reads along in a batch.")
        if head.previous_response_id is not None:
            raise unsupported("previous_response_id", "requests of a batch stand alone.")
        caller = self._caller(asked.key)
        model, base = self._located(head.model, caller)
        ask = Ask(
            api=_APIS[asked.endpoint],
            body=asked.body,
            head=head,
            model=model,
            base=base,
            answer_id=new_answer_id(_APIS[asked.endpoint]),
            created=int(time.time()),
            priority=BACKGROUND,
            owner=asked.owner,
            caller=caller,
        )
        return await self._collect(ask, asked.request_id, trace)


def no_storage() -> ApiError:
    """404 where nothing is kept."""
    return ApiError(404, "This server keeps no files; start it with --files FOLDER.", code="no_storage")


class Listed(Protocol):
    """Something in a list."""

    @property
    def id(self) -> str | None:
        """What it is called."""


L = TypeVar("L", bound=Listed)


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list a client asks for: `limit` items after the one with the id `after`."""

    limit: int
    after: str | None
    is_descending: bool
    others: dict[str, str]

    def of(self, items: Sequence[L]) -> tuple[list[L], bool]:
        """The items (given oldest first) of this page, and whether more follow; raises `ApiError`."""
        ordered = list(reversed(items)) if self.is_descending else list(items)
        begin = 0
        if self.after is not None:
            ids = [item.id for item in ordered]
            if self.after not in ids:
                raise invalid(f"'after' is '{shown(self.after)}', which is not in the list.", "after")
            begin = ids.index(self.after) + 1
        return ordered[begin : begin + self.limit], len(ordered) > begin + self.limit


def read_page(query: bytes, *others: str, most: int = _MOST_PER_PAGE, limit: int = 20) -> Page:
    """The page that a query string asks for; raises `ApiError` for what it may not have."""
    given = {name: values[-1] for name, values in parse_qs(query.decode("latin-1"), keep_blank_values=True).items()}
    for name in given:
        if name not in ("limit", "after", "order", *others):
            raise invalid(f"Unknown parameter: '{shown(name)}'.", shown(name), "unknown_parameter")
    text = given.get("limit", str(limit))
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise invalid(f"'limit' is '{shown(text)}'; it must be a number from 1 to {most}.", "limit")
    if given.get("order", "desc") not in ("asc", "desc"):
        raise invalid("'order' must be 'asc' or 'desc'.", "order")
    rest = {name: given[name] for name in others if name in given}
    return Page(int(text), given.get("after"), given.get("order", "desc") == "desc", rest)
