"""What is on the bill: as it was counted, else as it is guessed, and then it says so."""

import asyncio
from typing import Any

import pytest

from servery.config.types import Fallbacks, ModelConfig, Place, Price, Retry, Slo, Tier
from servery.config.types import Kind as DeploymentKind
from servery.gateway.cost import cost_picousd, nanousd
from servery.telemetry.ledger.row import LedgerRow
from servery.upstream.failure import Deadline, Kind, UpstreamFailure
from servery.upstream.upstream import Chunk
from servery.wire.errors import ApiError, context_length_exceeded
from servery.wire.usage import Usage
from tests.gateway.scripted import Reader, Scripted, Stage, Step, piece
from tests.gateway.virtual_time import run

GUESSED = round(len(b'[{"role":"user","content":"hi"}]') / 4)
OWN = {"kind": DeploymentKind.EMBEDDED, "tier": Tier.EMBEDDED}
ONCE: dict[str, Any] = {"retry": Retry(attempts=1)}
COUNTED = Chunk(usage=Usage.of(10, 4, 3, 2))


def counts(row: LedgerRow) -> tuple[int, int, int, int, int, bool]:
    return (
        row.prompt_tokens, row.cached_tokens, row.generated_tokens, row.reasoning_tokens, row.extra_tokens, row.is_estimated,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "script", "expected"),
    [
        ({}, (piece("a"), COUNTED), (10, 3, 4, 2, 0, False)),
        ({}, (piece("a"), piece("b")), (GUESSED, 0, 2, 0, 0, True)),  # it tells no usage
        ({}, (piece("a"), Chunk(usage=Usage.of(0, 0, 0))), (0, 0, 0, 0, 0, False)),  # what was told counts, also nothing
        (OWN, (piece("a", prompt_tokens=7, cached_tokens=2), piece("b")), (7, 2, 2, 0, 0, False)),
        ({}, (UpstreamFailure(Kind.REFUSED, "no"),), (0, 0, 0, 0, 0, False)),
        ({}, (UpstreamFailure(Kind.STATUS, "no", status=500),), (0, 0, 0, 0, 0, False)),
        ({}, (UpstreamFailure(Kind.TIMEOUT, "no", deadline=Deadline.CONNECT),), (0, 0, 0, 0, 0, False)),
        ({}, (UpstreamFailure(Kind.RESET, "no"),), (GUESSED, 0, 0, 0, 0, True)),  # it may have been at work
        ({}, (piece("a"), UpstreamFailure(Kind.CUT, "no")), (GUESSED, 0, 1, 0, 0, True)),
        # What a deployment would not take on, for the request's own sake, was not begun either.
        ({}, (context_length_exceeded(5, 9, None, "messages"),), (0, 0, 0, 0, 0, False)),
        ({}, (ApiError(400, "no", code="content_policy_violation"),), (0, 0, 0, 0, 0, False)),
        ({}, (piece("a"), ApiError(400, "no")), (GUESSED, 0, 1, 0, 0, True)),
        # A count from the beginning of an answer that was cut is behind what came after it.
        ({}, (piece("a", usage=Usage.of(10, 1, 0)), piece("b"), piece("c"), UpstreamFailure(Kind.CUT, "no")),
         (10, 0, 3, 0, 0, True)),
    ],
)  # fmt: skip
def test_counts_are_the_deployment_s_or_guessed_and_marked(
    kind: dict[str, Any], script: tuple[Step, ...], expected: tuple[int, int, int, int, int, bool]
) -> None:
    async def story() -> None:
        row = (await Stage({"a": Scripted(script)}, model=ONCE, deployments={"a": kind}).ask()).row
        assert counts(row) == expected

    run(story)


@pytest.mark.parametrize(("kind", "begun"), [({}, False), ({}, True), (OWN, False)])
def test_who_leaves_pays_for_what_was_begun(kind: dict[str, Any], begun: bool) -> None:
    async def story() -> None:
        script = (piece("a"), 100.0) if begun else (100.0,)
        price = {"price": Price(input_per_mtok=1_000_000, output_per_mtok=2_000_000)}
        stage = Stage({"a": Scripted(script)}, deployments={"a": {**kind, **price}})
        task = asyncio.create_task(stage.ask())
        await asyncio.sleep(5.0)
        stage.cut_by = "client"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        row = stage.rows.rows[0]
        assert counts(row) == (GUESSED, 0, int(begun), 0, 0, True)
        assert row.cost_nanousd == 1000 * (GUESSED + 2 * begun)

    run(story)


def test_an_exchange_is_rounded_once_and_sums_of_small_ones_are_exact() -> None:
    cheap = Price(input_per_mtok=20_000, output_per_mtok=37_500)  # $0.02 and $0.0375 per million tokens
    assert nanousd(cost_picousd(cheap, 10, 0, 0)) == 200  # a micro-dollar would be 0
    assert [nanousd(cost_picousd(cheap, 0, 0, tokens)) for tokens in (1, 2, 3)] == [38, 75, 113]
    assert nanousd(2 * cost_picousd(cheap, 0, 0, 1)) == 75  # two attempts of one exchange: not 38 + 38


def test_the_dearest_deployment_of_the_model_is_what_saving_is_measured_by() -> None:
    async def story() -> None:
        fixed, cheap = Price(per_hour=2_000_000), Price(input_per_mtok=1_000_000, output_per_mtok=1_000_000)
        dear = Price(input_per_mtok=3_000_000, cached_per_mtok=300_000, output_per_mtok=15_000_000)
        stage = Stage(
            {name: Scripted((piece("a"), COUNTED)) for name in "abc"},
            deployments={"a": {"price": fixed}, "b": {"price": cheap}, "c": {"price": dear}},
        )
        row = (await stage.ask()).row
        assert (row.deployment, row.cost_nanousd) == ("a", 0)
        assert row.dearest_nanousd == 1000 * 7 * 3 + 300 * 3 + 1000 * 4 * 15
        assert row.cache == "prefix"

    run(story)


@pytest.mark.parametrize(
    ("model", "route"),
    [
        ({"place": Place.FIRST}, "place=first tier=1/2 why=listed"),
        ({"place": Place.WEIGHTED}, "place=weighted tier=1/2 why=weight"),
        ({"place": Place.LEAST_LOAD}, "place=least-load tier=1/2 why=load"),
        ({"place": Place.PREFIX_AFFINITY}, "place=prefix-affinity tier=1/2 why=prefix"),
        ({"place": Place.CHEAPEST_WITHIN_SLO, "slo": Slo(ttft_s=60.0, tpot_s=60.0)},
         "place=cheapest-within-slo tier=1/2 why=within_slo"),
    ],
)  # fmt: skip
def test_the_route_says_why_it_went_there(model: dict[str, Any], route: str) -> None:
    async def story() -> None:
        stage = Stage(
            {"a": Scripted((piece("a"), COUNTED)), "b": Scripted((piece("b"), COUNTED))},
            model={"tiers": (("a",), ("b",)), **model},
        )
        assert (await stage.ask()).row.route == route

    run(story)


def test_the_route_says_what_had_failed_before_and_what_was_in_the_way() -> None:
    async def story() -> None:
        stage = Stage(
            {"a": Scripted((UpstreamFailure(Kind.RESET, "no"),)), "b": Scripted((piece("b"), COUNTED))},
            model={"tiers": (("a",), ("b",)), "retry": Retry(base_s=0.0)},
        )
        row = (await stage.ask()).row
        assert row.route == "place=first tier=2/2 why=listed after=reset"
        assert (row.extra_tokens, row.attempts, row.is_estimated) == (GUESSED, 2, True)

    run(story)


def test_a_refusal_that_another_model_mends_costs_nothing_and_is_named() -> None:
    async def story() -> None:
        price, too_long = Price(input_per_mtok=1_000_000), context_length_exceeded(5, 9, None, "messages")
        stage = Stage(
            {"a": Scripted((too_long,)), "b": Scripted((piece("b"), COUNTED))},
            models=(
                ModelConfig(
                    name="m", tiers=(("a",),), place=Place.FIRST, fallbacks=Fallbacks(context_window=("long",))
                ),
                ModelConfig(name="long", tiers=(("b",),), place=Place.FIRST),
            ),
            deployments={"a": {"price": price}},
        )
        row = (await stage.ask()).row
        assert (row.cost_nanousd, counts(row), row.attempts) == (0, (10, 3, 4, 2, 0, False), 2)
        assert row.route == "place=first tier=1/1 why=listed after=status_400"
        sent = [
            line
            for line in stage.metrics.render().decode().splitlines()
            if 'servery_attempts_total{deployment="a"' in line
        ]
        assert sent == ['servery_attempts_total{deployment="a",result="status_400",tier="self-hosted"} 1.0']

    run(story)


def test_waiting_for_a_place_here_and_in_the_engine_is_its_queue() -> None:
    async def story() -> None:
        script = (2.0, piece("a", queued_s=0.5), COUNTED)
        stage = Stage({"a": Scripted(script)}, deployments={"a": {"max_concurrency": 1}})
        first, second = stage.exchange(Reader()), stage.exchange(Reader())
        await asyncio.gather(stage.gateway.handle(first), stage.gateway.handle(second))
        assert [row.queue_s for row in stage.rows.rows] == [0.5, 2.5]

    run(story)
