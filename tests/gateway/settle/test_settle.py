import asyncio
from typing import Any

import msgspec
import pytest

from servery.config.types import Price, Retry, Slo, Timeouts
from servery.gateway.cost import cost_microusd
from servery.gateway.exchange import Outcome
from servery.gateway.settle.settle import outcome_of
from servery.telemetry.ledger.row import LedgerRow
from servery.upstream.caller import Caller
from servery.upstream.failure import Kind, UpstreamFailure
from servery.upstream.upstream import Chunk
from servery.wire.errors import failed, invalid, rate_limited
from servery.wire.usage import Usage
from tests.gateway.scripted import Reader, Scripted, Stage, Writer, piece
from tests.gateway.virtual_time import run

CUT = UpstreamFailure(Kind.CUT, "cut")
FULL = UpstreamFailure(Kind.THROTTLED, "later")
# What is taken for the tokens of the prompt in these tests, where nobody tells: its bytes by four.
GUESSED = round(len(b'[{"role":"user","content":"hi"}]') / 4)


@pytest.mark.parametrize(
    ("error", "cut_by", "is_begun", "outcome"),
    [
        (None, None, True, Outcome.COMPLETED),
        (None, "client", True, Outcome.COMPLETED),  # it went away after the end
        (asyncio.CancelledError(), "client", False, Outcome.CLIENT_GONE),
        (asyncio.CancelledError(), "timeout", True, Outcome.TIMEOUT),
        (asyncio.CancelledError(), "shutdown", True, Outcome.SHUTDOWN),
        (asyncio.CancelledError(), None, True, Outcome.SHUTDOWN),
        (invalid("wrong"), None, False, Outcome.REFUSED),
        (invalid("wrong"), None, True, Outcome.FAILED),
        (rate_limited("full", 1.0), None, False, Outcome.REFUSED),
        (FULL, None, False, Outcome.REFUSED),
        (FULL, None, True, Outcome.FAILED),
        (CUT, None, False, Outcome.FAILED),
        (failed("broken"), None, False, Outcome.FAILED),
        (ValueError("bug"), None, False, Outcome.FAILED),
    ],
    ids=repr,
)
def test_every_end_has_one_outcome(
    error: BaseException | None, cut_by: str | None, is_begun: bool, outcome: Outcome
) -> None:
    assert outcome_of(error, cut_by, is_begun=is_begun) is outcome


@pytest.mark.parametrize(
    ("tokens", "cost"),
    [
        ((0, 0, 0), 0),
        ((1_000_000, 0, 0), 3_000_000),
        ((1000, 400, 10), 1800 + 120 + 150),
        ((1, 1, 0), 0),
        ((5, 9, 0), 3),
    ],
)
def test_what_is_cached_has_its_own_price_and_halves_are_rounded_up(tokens: tuple[int, int, int], cost: int) -> None:
    price = Price(input_per_mtok=3_000_000, cached_per_mtok=300_000, output_per_mtok=15_000_000)
    assert cost_microusd(price, *tokens) == cost
    assert cost_microusd(Price(per_hour=2_350_000), *tokens) == 0


def test_a_row_says_all_of_an_exchange_and_nothing_of_its_content() -> None:
    async def story() -> None:
        price = Price(input_per_mtok=2_000_000, cached_per_mtok=1_000_000, output_per_mtok=10_000_000)
        dear = Price(input_per_mtok=4_000_000, cached_per_mtok=2_000_000, output_per_mtok=20_000_000)
        script = (
            1.0, Chunk(data=b"data: secret\n\n", tokens=1), 0.5, piece("b"), 0.5, piece("c"),
            Chunk(usage=Usage.of(100, 3, 40, 2)),
        )  # fmt: skip
        stage = Stage(
            {"a": Scripted((CUT,)), "b": Scripted(script)},
            deployments={"a": {"price": dear}, "b": {"price": price}},
            model={"slo": Slo(ttft_s=1.0, tpot_s=0.5), "retry": Retry(base_s=0.0)},
        )
        exchange = stage.exchange(Reader(), user="secret", caller=Caller(key="k1", owner="ann"))
        exchange.task = "t"
        await stage.gateway.handle(exchange)
        (row,) = stage.rows.rows
        assert stage.rows.begun == 1
        assert row == LedgerRow(
            id="id0", request_id="req", at_s=row.at_s, api="chat", key_id="k1", owner="ann", task="t", model="m",
            served_model="m", deployment="b", tier="self-hosted", is_stream=True, prompt_tokens=100,
            cached_tokens=40, generated_tokens=3, reasoning_tokens=2, extra_tokens=GUESSED, is_estimated=True, queue_s=0.0, ttft_s=1.0, tpot_s=0.5,
            e2e_s=2.0, is_slo_met=True, cost_nanousd=1000 * (120 + 40 + 30 + 4 * GUESSED),
            dearest_nanousd=1000 * (2 * 190), cache="prefix",
            route="place=first tier=1/1 why=listed after=cut", attempts=2, outcome="completed", status=200, error=None,
            generation=1,
        )  # fmt: skip
        assert "secret" not in repr(row)
        text = stage.metrics.render().decode()
        assert 'servery_attempts_total{deployment="a",result="cut",tier="self-hosted"} 1.0' in text
        assert 'servery_attempts_total{deployment="b",result="ok",tier="self-hosted"} 1.0' in text
        assert 'servery_cost_microusd_total{deployment="b",model_name="m",tier="self-hosted"} 222.0' in text
        assert 'servery_slo_good_total{deployment="b",model_name="m",tier="self-hosted"} 1.0' in text

    run(story)


@pytest.mark.parametrize(
    ("script", "is_met"),
    [
        ((1.0, piece("a"), 0.4, piece("b")), True),
        ((1.1, piece("a"), 0.4, piece("b")), False),
        ((1.0, piece("a"), 0.6, piece("b")), False),
        ((piece("a"), CUT), False),
        ((invalid("wrong"),), None),
        ((rate_limited("full", 60.0),), False),  # who is sent away has no answer, however good the reason
    ],
)
def test_the_slo_is_missed_by_what_is_late_or_failed_and_not_by_the_client_s_own_fault(
    script: Any, is_met: bool | None
) -> None:
    async def story() -> None:
        stage = Stage({"a": Scripted(script)}, model={"slo": Slo(ttft_s=1.0, tpot_s=0.5), "retry": Retry(attempts=1)})
        assert (await stage.ask()).row.is_slo_met is is_met

    run(story)


def test_the_upstream_s_own_count_is_believed_and_marked_where_it_is_a_guess() -> None:
    async def story() -> None:
        script = (piece("a"), Chunk(usage=Usage.of(50, 20, 10), is_estimated=True))
        priced = {"a": {"price": Price(input_per_mtok=2_000_000, output_per_mtok=3_000_000)}}
        row = (await Stage({"a": Scripted(script)}, deployments=priced).ask()).row
        assert row.cost_nanousd == 1000 * (2 * 40 + 3 * 20)
        assert (row.prompt_tokens, row.cached_tokens, row.generated_tokens, row.is_estimated) == (50, 10, 20, True)

    run(story)


def test_an_exchange_is_settled_once_also_when_nothing_of_it_was_expected() -> None:
    async def story() -> None:
        stage = Stage({"a": Scripted((KeyError("bug"),))})
        with pytest.raises(KeyError):
            await stage.ask()
        (row,) = stage.rows.rows
        assert (row.outcome, row.error, row.status) == ("failed", "KeyError", 500)
        assert stage.gateway.fleet.deployments["a"].in_flight == 0

    run(story)


def test_an_adapter_is_a_name_in_the_row_and_its_base_in_the_metrics() -> None:
    async def story() -> None:
        stage = Stage({"a": Writer("hello")})
        exchange = stage.exchange(Reader())
        exchange.ask = msgspec.structs.replace(exchange.ask, model="m:sql")
        await stage.gateway.handle(exchange)
        assert (stage.rows.rows[0].served_model, "m:sql" in stage.metrics.render().decode()) == ("m:sql", False)

    run(story)


def test_a_total_time_that_is_up_is_its_own_outcome() -> None:
    async def story() -> None:
        stage = Stage({"a": Scripted((1000.0, piece("a")))}, model={"timeouts": Timeouts(first_token_s=2000.0)})
        task = asyncio.create_task(stage.ask())
        await asyncio.sleep(5.0)
        stage.cut_by = "timeout"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        row = stage.rows.rows[0]
        assert (row.outcome, row.status, row.e2e_s) == ("timeout", 504, 5.0)

    run(story)
