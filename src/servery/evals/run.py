"""`servery eval run`: ask every task that has no answer yet, score what comes, and keep each outcome at once."""

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servery import __version__
from servery.bench.machine import Provenance
from servery.evals import calibration, results, task
from servery.evals.answer import Answer, Failure, Respondent
from servery.evals.computed import Computed
from servery.evals.errors import OptionError, VerdictError
from servery.evals.fingerprint import Fingerprint
from servery.evals.judge import Judge
from servery.evals.progress import progress
from servery.evals.remote import Endpoint, Remote
from servery.evals.results import Header, Item, Results, TaskSet, Writer
from servery.evals.score import SCORERS
from servery.evals.task import Task, TaskFile


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What `servery eval run` was asked. Raises `OptionError` for options that do not go together.

    Exactly one of `endpoint` and `offline` is the system. `checkpoint` says which files the server at the endpoint
    serves, to bind the results to them. `engine` are settings of the engine in this process.
    """

    tasks: Path
    out: Path
    endpoint: Endpoint | None = None
    offline: Path | None = None
    checkpoint: Path | None = None
    engine: dict[str, Any] = dataclasses.field(default_factory=dict)
    judge: Endpoint | None = None

    def __post_init__(self) -> None:
        if (self.endpoint is None) == (self.offline is None):
            raise OptionError("give either --url (and --model) or --offline, not both and not neither.")
        if self.offline is not None and self.checkpoint is not None:
            raise OptionError("--checkpoint says what a server serves; --offline names its checkpoint itself.")
        if self.out.resolve() == self.tasks.resolve():
            raise OptionError(f"--out {self.out} is the task file itself; name another file.")


def run(options: RunOptions) -> Results:
    """Answer what is missing and return everything in the file.

    Raises `EvalError`, `ClientError` or `EngineError` if it cannot begin or go on; what was answered is kept.
    """
    tasks = task.load(options.tasks)
    if options.judge is None and any(one.scorer == "judge" for one in tasks.tasks):
        raise OptionError(f"{options.tasks} has tasks with the scorer 'judge'; name one with --judge-url.")
    asyncio.run(_run(options, tasks))
    return results.read(options.out)


async def _run(options: RunOptions, tasks: TaskFile) -> None:
    judge = await _judge(options.judge)
    try:
        settings = _settings(options)  # first: what is read now is what the engine loads
        system, model, computed = await _system(options)
        try:
            with Writer(options.out, _header(options, tasks, model, settings, computed)) as writer:
                await _answer(system, judge, tasks.tasks, writer)
        finally:
            system.close()
    finally:
        if judge is not None:
            judge.close()


async def _answer(system: Respondent, judge: Judge | None, tasks: Sequence[Task], writer: Writer) -> None:
    waiting = [one for one in tasks if one.id not in writer.done]
    with progress("answering", len(tasks), len(writer.done)) as advance:

        async def keep(one: Task, answer: Answer | Failure) -> None:
            writer.write(await score(one, answer, judge))
            advance()

        await system.answer(waiting, keep)


async def score(one: Task, answer: Answer | Failure, judge: Judge | None) -> Item:
    """The outcome of one task: right, wrong, or an error instead of an answer or of a verdict."""
    if isinstance(answer, Failure):
        return Item(id=one.id, stratum=one.stratum, error=f"{answer.kind}: {answer.message}")
    found = Item(
        id=one.id,
        stratum=one.stratum,
        text=answer.text,
        finish_reason=answer.finish_reason,
        logprobs=list(answer.logprobs) if answer.logprobs is not None else None,
    )
    if judge is None or one.scorer != "judge":
        return _with(found, is_right=SCORERS[one.scorer](answer, one))
    try:
        is_right, words = await judge.verdict(one, answer)
    except VerdictError as error:
        return _with(found, error=f"verdict: {error}")
    return _with(found, is_right=is_right, verdict=words)


def failures(found: Results) -> dict[str, int]:
    """How many tasks failed, by kind of error."""
    return dict(Counter(item.error.partition(":")[0] for item in found.items.values() if item.error))


def _with(item: Item, **changes: Any) -> Item:
    return Item(**{name: getattr(item, name) for name in item.__struct_fields__} | changes)


async def _judge(endpoint: Endpoint | None) -> Judge | None:
    if endpoint is None:
        return None
    remote = Remote(endpoint)
    await remote.connect()
    return Judge(remote)


async def _system(options: RunOptions) -> tuple[Respondent, str, Computed | None]:
    if options.endpoint is not None:
        remote = Remote(options.endpoint)
        await remote.connect()
        return remote, remote.model, None
    from servery.evals.offline import Offline  # torch comes with it

    offline = Offline(options.offline or Path(), options.engine)
    return offline, offline.model, offline.computed


def _settings(options: RunOptions) -> dict[str, Any]:
    settings: dict[str, Any] = {"engine": calibration.bound(options.engine)} if options.offline else {}
    if options.judge is not None:
        settings["judge"] = {"url": options.judge.url, "model": options.judge.model}
    return settings


def _header(
    options: RunOptions, tasks: TaskFile, model: str, settings: dict[str, Any], computed: Computed | None
) -> Header:
    checkpoint = options.offline or options.checkpoint
    return Header(
        tasks=TaskSet(tasks.name, tasks.sha256, dict(Counter(one.stratum for one in tasks.tasks))),
        target=options.endpoint.url if options.endpoint else str((options.offline or Path()).resolve()),
        model=model,
        checkpoint=Fingerprint.of(checkpoint) if checkpoint else None,
        settings=settings,
        computed=computed,
        version=__version__,
        provenance=dataclasses.asdict(Provenance.now()),
    )
