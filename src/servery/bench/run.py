"""`servery bench run`: prepare the requests, warm up, measure, report."""

import math
from collections.abc import Callable, Sequence
from contextlib import closing

import uvloop

from servery.bench import bandwidth, load
from servery.bench.bandwidth import Bandwidth
from servery.bench.engine_meter import Counters, EngineWork, read_counters, work_between
from servery.bench.engine_watch import first_tokens, readings, since, watched
from servery.bench.machine import Provenance, cache_bytes
from servery.bench.measured import Measured
from servery.bench.options import BenchOptions, WorkOptions, plain
from servery.bench.output import put_out
from servery.bench.page import write_page
from servery.bench.planned import Planned, number_of_requests
from servery.bench.report import Report, offered_rate, sample_rows, summarize
from servery.bench.stop import Stop
from servery.bench.table import show
from servery.bench.target import Target, require_folder
from servery.bench.validity import cost_notes, faults
from servery.bench.watch import Watch
from servery.bench.work import plan, request_like, traffic
from servery.byte_size import format_byte_size
from servery.engine.threads import usable_cores


def run(options: BenchOptions) -> int:
    """Measure and report; 0 if the run is valid and every request succeeded, else 1.

    Raises `ClientError` or `OSError` if it cannot begin.
    """
    require_folder(options.json_path)
    require_folder(options.html_path)
    report = uvloop.run(measure(options))
    put_out(report, options, lambda console: show(report, console), lambda path: write_page(path, [report]))
    return 1 if report.summary.errors or report.faults else 0


async def measure(options: BenchOptions) -> Report:
    """One whole run. Raises what the first request met; later errors are part of the report."""
    target = await Target.open(options.target, request_like(options.work))
    with closing(target.control), Stop() as stop:
        return await one_run(target, options, stop)


async def one_run(target: Target, options: BenchOptions, stop: Stop, goes_on: load.GoesOn | None = None) -> Report:
    """Make the requests of `options`, warm up, measure, report; `goes_on` may end it early, and `stop` at any time.

    Raises `Stopped` where that comes before there is anything to tell.
    """
    provenance, watch = Provenance.now(), Watch(options.slo)
    requests = traffic(options.work, options.load)
    with watch.count("making prompts", len(requests)) as advance:
        planned = await plan(target, options.work, requests, _unless(stop, advance))
    warming, counted = planned[: options.load.warmup], planned[options.load.warmup :]
    await load.warm_up(target, warming, options.load, watch, stop)
    before = await target.metrics()
    stop.check()
    stop.listen()
    at_first = readings(before, target.model)
    async with watched(target.control, target.model, at_first) as seen:
        measured = await load.measure(target, counted, options.load, watch, stop, goes_on)
    after = await target.metrics()
    notes = [*_length_notes(options.work, target), *_sample_notes(measured)]
    unasked = number_of_requests(counted) - len(measured.samples)
    if unasked and goes_on is None and not stop.is_asked:
        notes.append(f"{unasked} turns were not asked: the answer before them did not come whole")
    counters = read_counters(before, target.model), read_counters(after, target.model)
    if options.work.trace and len(requests) < options.load.warmup + options.load.requests:
        notes.append(f"the trace has no more than {len(requests)} requests, those of the warm-up among them")
    ceiling = None if stop.is_asked else _ceiling(options, target, counters[0], notes)
    engine = work_between(*counters, ceiling)
    return Report(
        provenance=provenance,
        options=plain(options),
        model=target.model,
        offered_rate=_rate(options, planned) if measured.is_open else None,
        clients=options.load.concurrency,
        summary=summarize(measured, options.slo, options.dollars_per_hour),
        faults=[*faults(measured, options.slo), *_stopped(stop, measured, unasked)],
        engine=engine,
        bandwidth=ceiling,
        notes=[*notes, *_engine_notes(engine)],
        samples=sample_rows(measured, options.slo),
        first_tokens=first_tokens(at_first, readings(after, target.model), _mean_ttft_ms(measured)),
        moments=since(seen, measured.began),
    )


def _mean_ttft_ms(measured: Measured) -> float | None:
    """From when requests were sent: a server knows nothing of a client that is late."""
    known = [one.arrivals[0] - one.sent for one in measured.samples if one.arrivals]
    return 1e3 * math.fsum(known) / len(known) if known else None


def _unless(stop: Stop, advance: Callable[[], None]) -> Callable[[], None]:
    """`advance`, with a look at whether to go on."""

    def checked() -> None:
        stop.check()
        advance()

    return checked


def _stopped(stop: Stop, measured: Measured, unasked: int) -> list[str]:
    if not stop.is_asked or not unasked:
        return []
    ended = len(measured.samples)
    return [f"stopped after {ended} of {ended + unasked} requests; those under way, the slower ones, are not counted"]


def _rate(options: BenchOptions, planned: Sequence[Planned]) -> float | None:
    """The rate asked for; that of the trace where it is replayed as it was."""
    arrivals = options.load.arrivals
    return arrivals.rate if arrivals else offered_rate([one.at_s for one in planned[options.load.warmup :]])


def _ceiling(options: BenchOptions, target: Target, counters: Counters | None, notes: list[str]) -> Bandwidth | None:
    """The bandwidth of this machine, where an embedded engine of this machine was measured."""
    if counters is None or not options.measures_bandwidth:
        return None
    if not target.address.is_loopback:
        notes.append("MBU is left out: the engine runs on another machine, whose bandwidth cannot be measured here")
        return None
    try:
        return bandwidth.measure(usable_cores())
    except ImportError:
        notes.append("MBU is left out: measuring the bandwidth needs NumPy (pip install 'servery[engine]')")
        return None


def _length_notes(work: WorkOptions, target: Target) -> list[str]:
    notes = target.dialect.notes
    if not target.counter.is_exact:
        notes.append("no /tokenize there: prompt lengths were guessed from characters; the counts are the server's")
    if work.stop_at_eos or "ignore_eos" in target.dialect.refused:
        asked = "those of the trace" if work.trace else f"{work.output_tokens} tokens"
        notes.append(f"answers end themselves: {asked} is the most, not what was generated")
    return notes


def _sample_notes(measured: Measured) -> list[str]:
    good = [sample for sample in measured.samples if sample.is_good]
    notes = []
    if silent := sum(not sample.arrivals for sample in good):
        notes.append(f"{silent} answers had no text; they are good, but have no TTFT and no TPOT")
    if any(sample.counted_tokens is None for sample in good):
        notes.append("the server did not count all answers: their events were counted as tokens")
    return [*notes, *cost_notes(measured)]


def _engine_notes(engine: EngineWork | None) -> list[str]:
    cache = cache_bytes()
    if engine is None or engine.mbu is None or cache is None or engine.read_bytes_per_step > cache:
        return []
    read, held = format_byte_size(round(engine.read_bytes_per_step)), format_byte_size(cache)
    return [f"a step reads {read}; the last-level cache holds {held}: bandwidth is no ceiling here, MBU a yardstick"]
