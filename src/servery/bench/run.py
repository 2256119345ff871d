"""`servery bench`: prepare the prompts, warm up, measure, report."""

import dataclasses
import errno
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from servery.bench import bandwidth, closed_loop
from servery.bench.address import Address
from servery.bench.bandwidth import Bandwidth
from servery.bench.client import LOADING_S, Client
from servery.bench.closed_loop import Measured
from servery.bench.dialect import Dialect
from servery.bench.engine_meter import Counters, EngineWork, read_counters, work_between
from servery.bench.errors import ClientError, WrongStatus
from servery.bench.machine import Provenance, cache_bytes
from servery.bench.prompts import Messages, PromptMaker, TokenCounter, token_counter
from servery.bench.report import Report, sample_rows, show, summarize
from servery.bench.span import Span
from servery.byte_size import format_byte_size
from servery.engine.threads import usable_cores

BUSY_CLIENT = 0.7  # share of a core above which the client's own queueing may show in the latencies


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """What `servery bench` was asked to measure."""

    url: str
    model: str | None = None
    api_key: str | None = dataclasses.field(default=None, repr=False)
    concurrency: int = 8
    requests: int = 200
    warmup: int = 8
    prompt_tokens: Span
    shared_prefix_tokens: int = 0
    output_tokens: Span
    stop_at_eos: bool = False
    temperature: float = 0.0
    seed: int = 0
    timeout_s: float = 600.0
    measures_bandwidth: bool = True
    json_path: Path | None = None


def run(options: BenchOptions) -> int:
    """Measure and report; 0 if every request was good, else 1. Raises `ClientError` or `OSError` if it cannot begin."""
    if options.json_path is not None and not options.json_path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such directory to write to", str(options.json_path.parent))
    report = uvloop.run(measure(options))
    if options.json_path != Path("-"):
        show(report, Console())
    if options.json_path is not None:
        _write(report, options.json_path)
    return 1 if report.summary.errors else 0


async def measure(options: BenchOptions) -> Report:
    """One whole run. Raises what the first request met; later errors are part of the report."""
    address = Address.parse(options.url)
    provenance = Provenance.now()
    clients = [Client(address, options.api_key, options.timeout_s) for _ in range(options.concurrency)]
    try:
        await clients[0].wait_until_ready(LOADING_S)
        model = options.model or await clients[0].first_model()
        dialect = await _probe(clients[0], options, model)
        counter = await token_counter(clients[0], model)
        requests = await _requests(counter, options, model, dialect)
        await _load("warming up", clients, requests[: options.warmup])
        before = await _counters(clients[0], model)
        measured = await _load("measuring", clients, requests[options.warmup :])
        after = await _counters(clients[0], model)
    finally:
        for client in clients:
            client.close()
    notes = [*_length_notes(options, dialect, counter), *_sample_notes(measured)]
    ceiling = _ceiling(options, address, before, notes)
    engine = work_between(before, after, ceiling) if before and after else None
    return Report(
        provenance=provenance,
        options={name: _plain(value) for name, value in dataclasses.asdict(options).items() if name != "api_key"},
        model=model,
        summary=summarize(measured, options.concurrency),
        engine=engine,
        bandwidth=dataclasses.asdict(ceiling) if ceiling else None,
        notes=[*notes, *_engine_notes(engine)],
        samples=sample_rows(measured),
    )


def _request(options: BenchOptions, model: str, messages: Messages, output_tokens: int) -> dict[str, Any]:
    request = {
        "model": model,
        "messages": messages,
        "max_tokens": output_tokens,
        "temperature": options.temperature,
        "stream_options": {"include_usage": True},
    }
    return request if options.stop_at_eos else {**request, "ignore_eos": True}


async def _probe(client: Client, options: BenchOptions, model: str) -> Dialect:
    """Find out with short answers which parameters the server takes; raises what else it answers."""
    request = _request(options, model, [{"role": "user", "content": "one"}], 1)
    dialect = Dialect()
    while True:
        try:
            async with aclosing(client.chat(dialect.speak(request))) as deltas:
                async for _ in deltas:
                    pass
        except WrongStatus as error:
            learnt = dialect.learn(request, error)
            if learnt is None:
                raise
            dialect = learnt
        else:
            return dialect


async def _requests(counter: TokenCounter, options: BenchOptions, model: str, dialect: Dialect) -> list[dict[str, Any]]:
    """All requests, those of the warm-up first; the lengths of answers come from a stream of chance of their own."""
    maker = PromptMaker(counter, options.prompt_tokens, options.shared_prefix_tokens, options.seed)
    lengths = random.Random(options.seed + 1)
    requests = []
    with _progress("making prompts", options.warmup + options.requests) as advance:
        for _ in range(options.warmup + options.requests):
            request = _request(options, model, await maker.next(), options.output_tokens.draw(lengths))
            requests.append(dialect.speak(request))
            advance()
    return requests


async def _load(name: str, clients: list[Client], requests: list[dict[str, Any]]) -> Measured:
    with _progress(name, len(requests)) as advance:
        return await closed_loop.run(clients, requests, lambda _: advance())


async def _counters(client: Client, model: str) -> Counters | None:
    try:
        return read_counters(await client.metrics(), model)
    except ClientError:
        return None  # most servers keep their metrics elsewhere


def _ceiling(options: BenchOptions, address: Address, counters: Counters | None, notes: list[str]) -> Bandwidth | None:
    """The bandwidth of this machine, where an embedded engine of this machine was measured."""
    if counters is None or not options.measures_bandwidth:
        return None
    if not address.is_loopback:
        notes.append("MBU is left out: the engine runs on another machine, whose bandwidth cannot be measured here")
        return None
    try:
        return bandwidth.measure(usable_cores())
    except ImportError:
        notes.append("MBU is left out: measuring the bandwidth needs NumPy (pip install 'servery[engine]')")
        return None


def _length_notes(options: BenchOptions, dialect: Dialect, counter: TokenCounter) -> list[str]:
    notes = dialect.notes
    if not counter.is_exact:
        notes.append("no /tokenize there: prompt lengths were guessed from characters; the counts are the server's")
    if options.stop_at_eos or "ignore_eos" in dialect.refused:
        notes.append(f"answers end themselves: {options.output_tokens} tokens is the most, not what was generated")
    return notes


def _sample_notes(measured: Measured) -> list[str]:
    good = [sample for sample in measured.samples if sample.is_good]
    notes = []
    if silent := sum(not sample.arrivals for sample in good):
        notes.append(f"{silent} answers had no text; they are good, but have no TTFT and no TPOT")
    if any(sample.counted_tokens is None for sample in good):
        notes.append("the server did not count all answers: their events were counted as tokens")
    if measured.client_cpu_share > BUSY_CLIENT:
        notes.append(f"this client used {measured.client_cpu_share:.0%} of a core: latencies may be its own")
    return notes


def _engine_notes(engine: EngineWork | None) -> list[str]:
    cache = cache_bytes()
    if engine is None or engine.mbu is None or cache is None or engine.read_bytes_per_step > cache:
        return []
    read, held = format_byte_size(round(engine.read_bytes_per_step)), format_byte_size(cache)
    return [f"a step reads {read}; the last-level cache holds {held}: bandwidth is no ceiling here, MBU a yardstick"]


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr, shown where that is a terminal; yields what to call after each piece of work."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal or not total) as bar:
        task = bar.add_task(name, total=total)
        yield lambda: bar.advance(task)


def _write(report: Report, path: Path) -> None:
    data = orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    if path == Path("-"):
        sys.stdout.buffer.write(data)
    else:
        path.write_bytes(data)


def _plain(value: object) -> object:
    """Values as JSON has them: paths and spans become text."""
    return str(value) if isinstance(value, Path | Span) else value
