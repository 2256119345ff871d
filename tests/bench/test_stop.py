"""Ctrl-C ends a measurement, not what it has found: what is told says that it is not all."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from servery.bench.arrivals import Arrivals
from servery.bench.capacity import CapacitySearch, Verdict
from servery.bench.comparison import measure as compare
from servery.bench.goodput import measure as search
from servery.bench.options import BenchOptions, LoadOptions, TargetOptions, WorkOptions
from servery.bench.report import Report
from servery.bench.run import one_run
from servery.bench.sample import Sample
from servery.bench.slo import BenchSlo
from servery.bench.span import Span
from servery.bench.stop import Stop, Stopped
from servery.bench.sweep import measure as sweep
from servery.bench.sweep import with_clients
from servery.bench.target import Target
from servery.bench.work import request_like
from tests.scripted_server import ScriptedServer, chunk, event, head, json_answer, scripted, stream

CHAT = "/v1/chat/completions"


def script(answers: int) -> dict[str, list[list[Any]]]:
    """Two models; a probe and `answers` are answered, and then nothing is."""
    held = [head(), chunk(event("a")), asyncio.Event()]
    models = json_answer({"data": [{"id": "m"}, {"id": "n"}]})
    return {"/v1/models": [models], CHAT: [stream("a", "b")] * (1 + answers) + [held]}


def options(server: ScriptedServer, **load: Any) -> BenchOptions:
    return BenchOptions(
        target=TargetOptions(url=server.url, model="m"),
        work=WorkOptions(prompt_tokens=Span(8, 8), output_tokens=Span(2, 2)),
        load=LoadOptions(**{"requests": 4, "warmup": 0, **load}),
        slo=BenchSlo.parse("ttft:50m", 0.5),
        measures_bandwidth=False,
    )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is waited for is in another object's list
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("load", [{"concurrency": 1}, {"arrivals": Arrivals(500.0, 0.0)}])
def test_a_run_that_is_ended_tells_what_it_has_and_that_it_is_not_all(load: dict[str, Any]) -> None:
    async def run() -> Report:
        async with scripted(script(2)) as server:
            asked, done, stop = options(server, **load), list[Sample](), Stop()
            target = await Target.open(asked.target, request_like(asked.work))
            with closing(target.control), stop:
                measuring = asyncio.create_task(one_run(target, asked, stop, lambda one: done.append(one) or True))
                # One client asks for the third when it has the second; an open loop tells of each as it ends.
                await until(lambda: len(done) == 2 or ("concurrency" in load and len(server.bodies(CHAT)) == 1 + 3))
                stop.ask()
                return await measuring

    found = asyncio.run(run())
    assert (found.summary.good, len(found.samples)) == (2, 2)
    assert found.faults == [
        "stopped after 2 of 4 requests; those under way, the slower ones, are not counted",
    ]


def test_a_run_that_is_to_end_before_it_measures_tells_nothing() -> None:
    async def run() -> None:
        async with scripted(script(9)) as server:
            asked = options(server, concurrency=1)
            target = await Target.open(asked.target, request_like(asked.work))
            with closing(target.control), Stop() as stop:
                stop.ask()
                with pytest.raises(Stopped):
                    await one_run(target, asked, stop)
                assert len(server.bodies(CHAT)) == 1

    asyncio.run(run())


def interrupted(of: Callable[[ScriptedServer], Any], answers: int) -> Any:
    """What `of` gives when Ctrl-C is pressed while the request after `answers` hangs."""

    async def run() -> Any:
        async with scripted(script(answers)) as server:
            measuring = asyncio.create_task(of(server))
            await until(lambda: len(server.bodies(CHAT)) >= 1 + answers + 1)
            signal.raise_signal(signal.SIGINT)
            return await measuring

    before = signal.getsignal(signal.SIGINT)
    found = asyncio.run(run())
    assert signal.getsignal(signal.SIGINT) is before
    return found


def test_ctrl_c_in_a_sweep_keeps_the_runs_before() -> None:
    found = interrupted(
        lambda server: sweep([with_clients(options(server), 1, index) for index in range(3)]), answers=4 + 1
    )
    assert [len(one.samples) for one in found.runs] == [4, 1]
    assert [len(one.faults) for one in found.runs] == [0, 1]


def test_ctrl_c_in_a_search_gives_no_capacity_that_was_not_shown() -> None:
    def begin(server: ScriptedServer) -> Any:
        return search(options(server, requests=8, arrivals=Arrivals(200.0, 0.0)), CapacitySearch(200.0, most_trials=3))

    found = interrupted(begin, answers=8 + 5)
    assert [one.verdict for one in found.trials] == [Verdict.KEPT, Verdict.UNCLEAR]
    assert (found.capacity, found.broken_rate, found.is_valid) == (200.0, 400.0, False)


def test_a_comparison_that_is_ended_compares_what_both_have() -> None:
    """The first pair is whole; of the second B has some and A nothing."""
    found = interrupted(_compared, answers=1 + 2 * 4 + 2)
    assert (len(found.a), len(found.b), found.is_valid) == (1, 1, False)
    assert found.b[0].faults == ["stopped after this run; more were to follow"]


def _compared(server: ScriptedServer) -> Any:
    asked = options(server, concurrency=1)
    return compare(asked, asked, repeats=3, margin=0.05)
