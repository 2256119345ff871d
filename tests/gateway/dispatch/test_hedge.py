import asyncio
from typing import Any

import pytest

from servery.config.types import Hedge, Price, Retry, Timeouts
from servery.upstream.failure import Kind, UpstreamFailure
from servery.upstream.upstream import Chunk
from servery.wire.errors import invalid
from servery.wire.usage import Usage
from tests.gateway.scripted import Reader, Scripted, Stage, Told, piece
from tests.gateway.virtual_time import run

REFUSED = UpstreamFailure(Kind.REFUSED, "nobody listens")
AFTER_1_S = {"hedge": Hedge(after_s=1.0)}
QUICK = (piece("q"),)
LATE = (2.5, piece("l"))
NEVER = (1e4, piece("n"))


def stage(*scripts: Any, **model: Any) -> tuple[Stage, list[Scripted]]:
    upstreams = [Scripted(script) for script in scripts]
    return Stage(dict(zip("abc", upstreams, strict=False)), model={**AFTER_1_S, **model}), upstreams


def ends(made: Stage, told: Told) -> tuple[Any, ...]:
    """Who answered what after how long, how many were asked, and how many places are still taken."""
    row, taken = told.row, sum(each.in_flight for each in made.gateway.fleet.deployments.values())
    return row.outcome, row.deployment, told.client.data, told.took_s, row.attempts, taken


def hedges(made: Stage, result: str) -> bool:
    """Whether one hedge is counted, with this result."""
    return f'servery_hedges_total{{model_name="m",result="{result}"}} 1.0' in made.metrics.render().decode()


def test_one_that_is_slow_to_begin_is_overtaken_and_aborted_at_once() -> None:
    async def story() -> None:
        made, (slow, quick) = stage(NEVER, QUICK)
        told = await made.ask()
        assert ends(made, told) == ("completed", "b", b"data: q\n\n", 1.0, 2, 0)
        assert (slow.closed, quick.closed, told.row.generated_tokens) == (1, 1, 1)
        assert hedges(made, "ok")
        assert dict(told.client.headers)["x-servery-deployment"] == "b"

    run(story)


def test_the_first_one_may_still_be_sooner_and_then_the_second_is_aborted() -> None:
    async def story() -> None:
        made, (_, second) = stage(LATE, NEVER)
        told = await made.ask()
        assert ends(made, told) == ("completed", "a", b"data: l\n\n", 2.5, 2, 0)
        assert (second.closed, hedges(made, "abandoned")) == (1, True)

    run(story)


def test_one_that_begins_in_time_is_asked_alone() -> None:
    async def story() -> None:
        made, (_, second) = stage((0.9, piece("a"), 5.0, piece("b")), QUICK)
        assert (await made.ask()).row.attempts == 1
        assert second.calls == []

    run(story)


def test_a_model_that_is_at_work_without_words_is_not_late() -> None:
    async def story() -> None:
        made, (_, second) = stage((0.5, Chunk(tokens=1), 5.0, piece("a")), QUICK)
        assert ((await made.ask()).row.attempts, second.calls) == (1, [])

    run(story)


def test_a_failure_is_no_end_while_the_other_one_runs_and_a_fault_of_the_client_s_is() -> None:
    async def story() -> None:
        made, _ = stage((1.5, REFUSED), LATE)
        assert ends(made, await made.ask()) == ("completed", "b", b"data: l\n\n", 3.5, 2, 0)
        made, _ = stage(LATE, (0.5, REFUSED))
        assert ends(made, await made.ask()) == ("completed", "a", b"data: l\n\n", 2.5, 2, 0)
        made, _ = stage(NEVER, (0.5, invalid("'n' is 0", "n")))
        told = await made.ask()
        assert (told.status, *ends(made, told)) == (400, "refused", "b", b"", 1.5, 2, 0)

    run(story)


def test_when_both_fail_the_third_is_asked_as_after_any_failure() -> None:
    async def story() -> None:
        made, _ = stage((1.2, REFUSED), (0.5, REFUSED), QUICK)
        assert ends(made, await made.ask())[:2] == ("completed", "c")
        made, _ = stage((1.2, REFUSED), (0.5, REFUSED), QUICK, retry=Retry(attempts=2))
        told = await made.ask()
        assert (told.status, told.row.attempts) == (503, 2)

    run(story)


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ({"retry": Retry(attempts=1)}, {}),
        ({"hedge": None}, {}),
        ({}, {"stream": False}),  # nobody knows whether it is late
        ({}, {"priority": 1}),  # batches have time
    ],
)
def test_it_is_within_the_attempts_and_only_for_streams_that_somebody_waits_for(
    model: dict[str, Any], fields: dict[str, Any]
) -> None:
    async def story() -> None:
        made, (_, second) = stage(LATE, QUICK, **model)
        assert (await made.ask(**fields)).took_s == 2.5
        assert second.calls == []

    run(story)


def test_hedges_are_taken_from_the_retry_budget() -> None:
    async def story() -> None:
        made, (_, second) = stage(LATE, QUICK, retry=Retry(budget=0.0), timeouts=Timeouts())
        await asyncio.gather(*[made.ask() for _ in range(12)])
        assert (len(second.calls), len(made.rows.rows)) == (10, 12)  # the budget's reserve

    run(story)


def test_nobody_is_sent_where_it_would_wait() -> None:
    async def story() -> None:
        upstreams = {"a": Scripted(LATE), "b": Scripted(NEVER)}
        made = Stage(upstreams, model=AFTER_1_S, deployments={"b": {"max_concurrency": 1}})
        hogs = asyncio.create_task(made.gateway.fleet.deployments["b"].enter(0))
        assert (await made.ask()).row.attempts == 1
        (await hogs).leave()

    run(story)


def test_after_a_percentile_it_follows_what_the_deployment_does_and_is_not_led_down_by_those_it_overtook() -> None:
    async def story() -> None:
        scripts = [(0.1 * (1 + at % 2), piece("a")) for at in range(20)]
        slow = Scripted(*scripts, NEVER)
        made = Stage({"a": slow, "b": Scripted(QUICK)}, model={"hedge": Hedge(quantile=0.9)})
        for _ in range(20):
            assert (await made.ask()).row.attempts == 1
        waits = [(await made.ask()).took_s for _ in range(5)]
        assert waits == pytest.approx([0.2] * 5)

    run(story)


def test_what_both_took_is_on_the_bill_and_the_answer_is_the_winner_s() -> None:
    async def story() -> None:
        loses = Scripted((Chunk(prompt_tokens=7), *NEVER))
        wins = Scripted((piece("q", prompt_tokens=5), Chunk(usage=Usage.of(5, 1, 0))))
        price = {"price": Price(input_per_mtok=1_000_000, output_per_mtok=1_000_000)}
        made = Stage({"a": loses, "b": wins}, model=AFTER_1_S, deployments={"a": price, "b": price})
        row = (await made.ask()).row
        assert (row.prompt_tokens, row.generated_tokens, row.attempts, row.cost_nanousd) == (5, 1, 2, 13_000)

    run(story)


@pytest.mark.parametrize("at_s", [0.5, 1.5])
def test_a_client_that_goes_away_ends_both(at_s: float) -> None:
    async def story() -> None:
        made, upstreams = stage(NEVER, NEVER)
        task = asyncio.create_task(made.gateway.handle(made.exchange(Reader())))
        await asyncio.sleep(at_s)
        made.cut_by = "client"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert [each.closed for each in upstreams] == [len(each.calls) for each in upstreams]
        assert sum(each.in_flight for each in made.gateway.fleet.deployments.values()) == 0
        assert made.rows.rows[-1].outcome == "client_gone"

    run(story)


def test_one_that_loses_in_the_very_moment_is_closed_too() -> None:
    async def story() -> None:
        made, upstreams = stage((2.0, piece("a"), 9.0, piece("b")), (1.0, piece("c"), 9.0, piece("d")))
        told = await made.ask()
        assert told.client.data in (b"data: a\n\ndata: b\n\n", b"data: c\n\ndata: d\n\n")
        assert [each.closed for each in upstreams] == [1, 1]
        assert sum(each.in_flight for each in made.gateway.fleet.deployments.values()) == 0

    run(story)
