"""Limits on an exchange's way: what is reserved, what is settled, what the client is told."""

import asyncio
from typing import Any

import msgspec
import pytest

from servery.config.types import (
    Fallbacks,
    Kind,
    Limits,
    LimitsConfig,
    ModelConfig,
    Place,
    Price,
    Retry,
    Tier,
)
from servery.gateway.admit.limits.limiter import Limiter
from servery.gateway.admit.limits.memory import MemoryLimits
from servery.gateway.gateway import Gateway
from servery.upstream.ask import Api
from servery.upstream.caller import Caller
from servery.upstream.failure import Kind as FailureKind
from servery.upstream.failure import UpstreamFailure
from servery.upstream.upstream import Chunk
from servery.wire.errors import ApiError
from servery.wire.usage import Usage
from tests.gateway.scripted import Reader, Scripted, Stage, Told, piece
from tests.gateway.virtual_time import now, run

# 2026-11-21T12:00:00Z; the virtual loop begins at 1000 s.
NOON_S = 1_795_262_400 - 1000
PRICE = Price(input_per_mtok=1_000_000, cached_per_mtok=100_000, output_per_mtok=2_000_000)  # a micro-dollar a token


def caller(**limits: Any) -> Caller:
    return Caller(tenant=b"t", key="k1", owner="team", limits=Limits(**limits))


def stage(*scripts: Any, **fields: Any) -> Stage:
    """One deployment `a` that costs, whose answers are `scripts`; counted by the loop's time."""
    values: dict[str, Any] = {"upstreams": {"a": Scripted(*scripts)}, "deployments": {"a": {"price": PRICE}}, **fields}
    made = Stage(**values)
    limiter = Limiter(MemoryLimits(now, lambda: NOON_S + now()), made.metrics.gateway)
    made.gateway = Gateway(made.fleet(), made.metrics, made.rows, limiter=limiter, clock=now, chance=lambda: 0.5)
    return made


def answer(prompt: int = 10, generated: int = 4) -> list[Any]:
    usage = Usage.of(prompt, generated, 0)
    return [piece("a", prompt_tokens=prompt), Chunk(data=b"data: b\n\n", usage=usage, finish_reason="stop")]


def headers(told: Told, prefix: str = "x-ratelimit-") -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in told.client.headers if name.startswith(prefix)}


async def left(at: Stage, who: Caller, name: str = "output-tokens") -> int:
    """How much a request that takes nothing of it is told is left."""
    told = await at.ask(caller=who, api=Api.EMBEDDINGS, input="x")
    return int(headers(told)[f"remaining-{name}"])


def error_of(told: Told) -> ApiError:
    assert told.error is not None
    return told.error


def test_what_was_not_used_is_given_back() -> None:
    async def story() -> None:
        at = stage(answer(prompt=10, generated=4))
        who = caller(requests_per_minute=60, input_tokens_per_minute=600, output_tokens_per_minute=600)
        told = await at.ask(caller=who, max_tokens=100)
        prompt = 8  # the estimate of the prompt that the stage sends
        assert headers(told) == {
            "limit-requests": "60", "remaining-requests": "59", "reset-requests": "1s",
            "limit-tokens": "600", "remaining-tokens": "500", "reset-tokens": "10s",
            "limit-input-tokens": "600", "remaining-input-tokens": str(600 - prompt), "reset-input-tokens": "800ms",
            "limit-output-tokens": "600", "remaining-output-tokens": "500", "reset-output-tokens": "10s",
        }  # fmt: skip
        assert await left(at, who) == 596
        assert await left(at, who, "requests") == 57

    run(story)


@pytest.mark.parametrize(
    ("fields", "reserved"),
    [
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 7, "n": 3}, 21),
        ({"max_tokens": 7, "n": 2, "best_of": 5, "api": Api.COMPLETIONS}, 35),
        ({"max_output_tokens": 9, "api": Api.RESPONSES}, 9),
        ({"max_tokens": 8, "api": Api.MESSAGES}, 8),
        ({"max_tokens": None}, 50),
        ({}, 50),
        ({"n": 2}, 100),
        ({"max_tokens": 0}, 0),
    ],
)
def test_what_is_reserved_is_the_longest_answer_of_all_completions(fields: dict[str, Any], reserved: int) -> None:
    async def story() -> None:
        at = stage(answer(), config={"limits": LimitsConfig(default_max_tokens=50)})
        told = await at.ask(caller=caller(output_tokens_per_minute=1000), **fields)
        is_anthropic = fields.get("api") is Api.MESSAGES
        found = headers(told, "anthropic-ratelimit-" if is_anthropic else "x-ratelimit-")
        assert found["output-tokens-remaining" if is_anthropic else "remaining-output-tokens"] == str(1000 - reserved)

    run(story)


@pytest.mark.parametrize(
    ("api", "kind", "field"),
    [
        (Api.CHAT, Kind.VLLM, "max_tokens"),
        (Api.CHAT, Kind.OPENAI, "max_completion_tokens"),
        (Api.COMPLETIONS, Kind.OPENAI, "max_tokens"),
        (Api.RESPONSES, Kind.VLLM, "max_output_tokens"),
    ],
)
def test_an_answer_without_a_bound_gets_one_where_output_is_limited(api: Api, kind: Kind, field: str) -> None:
    async def story() -> None:
        at = stage(
            answer(),
            deployments={"a": {"kind": kind, "price": PRICE}},
            config={"limits": LimitsConfig(default_max_tokens=50)},
        )
        for who in (
            caller(output_tokens_per_minute=1000),
            caller(microusd_per_day=10_000),
            caller(requests_per_minute=9),
        ):
            await at.ask(caller=who, api=api, temperature=0.5)
        upstream = at.upstreams["a"]
        bodies = [msgspec.json.decode(ask.body) for ask in upstream.asks]
        assert [body.get(field) for body in bodies] == [50, 50, None]
        assert {body["temperature"] for body in bodies} == {0.5}
        assert upstream.asks[0].head.most_tokens == 50

    run(story)


def test_an_engine_of_this_process_is_bounded_by_its_context_and_by_nothing_more() -> None:
    """A bound as long as the context would leave no room for a prompt."""

    async def story() -> None:
        for limit, left_over, bound in ((10_000, 10_000 - 2048, None), (100, 0, 100)):
            at = stage(answer(), deployments={"a": {"kind": Kind.EMBEDDED, "price": PRICE}})
            told = await at.ask(caller=caller(output_tokens_per_minute=limit))
            assert headers(told)["remaining-output-tokens"] == str(left_over)
            assert at.upstreams["a"].asks[0].head.most_tokens == bound

    run(story)


def test_a_prompt_that_fits_without_the_limits_bound_is_answered_without_it() -> None:
    async def story() -> None:
        too_long = ApiError(400, "the prompt and 2048 tokens are too long", code="context_length_exceeded")
        at = stage([too_long], answer())
        told = await at.ask(caller=caller(output_tokens_per_minute=10_000), stream=False)
        assert told.error is None
        assert [ask.head.most_tokens for ask in at.upstreams["a"].asks] == [2048, None]
        assert headers(told)["remaining-output-tokens"] == str(10_000 - 2048)

    run(story)


@pytest.mark.parametrize("fields", [{"max_tokens": 9}, {}])
def test_a_prompt_that_does_not_fit_by_itself_is_refused(fields: dict[str, int]) -> None:
    async def story() -> None:
        too_long = ApiError(400, "the prompt is too long", code="context_length_exceeded")
        at = stage([too_long])
        told = await at.ask(caller=caller(output_tokens_per_minute=10_000), **fields)
        assert error_of(told) is too_long
        assert [ask.head.most_tokens for ask in at.upstreams["a"].asks] == ([9] if fields else [2048, None])

    run(story)


@pytest.mark.parametrize(
    ("fields", "text", "param"),
    [
        ({"max_tokens": 1, "max_completion_tokens": 5000}, "'max_tokens' is 1 and 'max_completion_tokens' 5000", "max_completion_tokens"),
        ({"max_tokens": -1}, "'max_tokens' is -1; it must be from 0", "max_tokens"),
        ({"max_output_tokens": 10**10, "api": Api.RESPONSES}, "'max_output_tokens' is 10000000000", "max_output_tokens"),
        ({"n": 0}, "'n' is 0; it must be from 1 to 128", "n"),
        ({"n": -5}, "'n' is -5", "n"),
        ({"best_of": 10**6}, "'best_of' is 1000000", "best_of"),
    ],
)  # fmt: skip
def test_numbers_that_bound_nothing_are_refused(fields: dict[str, Any], text: str, param: str) -> None:
    async def story() -> None:
        at = stage(answer())
        told = await at.ask(caller=caller(output_tokens_per_minute=1000), **fields)
        error = error_of(told)
        assert (error.status, error.param, text in error.message) == (400, param, True)
        assert await left(at, caller(output_tokens_per_minute=1000)) == 1000

    run(story)


def test_bounds_that_contradict_are_refused_without_any_limit() -> None:
    async def story() -> None:
        told = await stage(answer()).ask(max_tokens=1, max_completion_tokens=2)
        assert told.status == 400

    run(story)


def test_who_waits_as_long_as_told_is_admitted_and_a_millisecond_less_is_not() -> None:
    async def story() -> None:
        at = stage(answer())
        who = caller(requests_per_minute=7, burst_s=9.0)  # a bucket of 1.05 requests
        assert (await at.ask(caller=who)).status == 200
        error = error_of(await at.ask(caller=who))
        assert error.headers == [
            ("x-should-retry", "true"), ("retry-after", "9"), ("retry-after-ms", "8143"),
        ]  # fmt: skip
        await asyncio.sleep(8.142)
        assert (await at.ask(caller=who)).status == 429
        await asyncio.sleep(0.001)
        assert (await at.ask(caller=who)).status == 200

    run(story)


def test_the_refusal_says_what_the_limit_is_whose_and_when() -> None:
    async def story() -> None:
        at = stage(answer(), config={"owners": {"team": Limits(output_tokens_per_minute=60)}})
        error = error_of(await at.ask(caller=caller(), max_tokens=61))
        assert (error.message, error.kind, error.code, error.headers) == (
            (
                "The request may take 61 tokens, more than owner 'team' is ever allowed at once (60 output tokens per "
                "minute). Ask for a lower max_tokens or n, or have the limit or its burst raised."
            ),
            "tokens", "request_over_limit", [("x-should-retry", "false")],
        )  # fmt: skip
        who = caller(microusd_per_day=100, microusd_per_month=100)
        error = error_of(await at.ask(caller=who, max_tokens=47))
        assert error.message == (
            "The request may take $0.000102, more than key 'k1' is ever allowed at once ($0.0001 per day). "
            "Ask for a lower max_tokens, or have the budget raised."
        )
        assert (await at.ask(caller=who, max_tokens=44)).status == 200
        error = error_of(await at.ask(caller=who, max_tokens=44))
        assert error.message.startswith("The limit of key 'k1' is $0.0001 per month: $0.000082 is left, and")
        assert (error.code, error.kind, error.is_final) == ("insufficient_quota", "insufficient_quota", True)
        # noon of 21 November to the end of the month
        assert dict(error.headers)["retry-after"] == str(9 * 86_400 + 43_200)
        assert {told.outcome for told in at.rows.rows[-2:]} == {"completed", "refused"}

    run(story)


def test_a_budget_that_requests_under_way_hold_is_not_spent() -> None:
    async def story() -> None:
        at = stage([5.0, *answer()])
        who = caller(microusd_per_day=250)
        first = asyncio.create_task(at.ask(caller=who, max_tokens=100))
        await asyncio.sleep(1)
        error = error_of(await at.ask(caller=who, max_tokens=100))
        assert (error.code, error.kind, error.is_final) == ("rate_limit_exceeded", "requests", False)
        assert dict(error.headers) == {"x-should-retry": "true", "retry-after": "1", "retry-after-ms": "1000"}
        assert "$0.000042 is left while requests under way hold $0.000208, and" in error.message
        assert (await first).status == 200
        assert (await at.ask(caller=who, max_tokens=100)).status == 200
        error = error_of(await at.ask(caller=who, max_tokens=118))
        assert (error.code, error.is_final) == ("insufficient_quota", True)

    run(story)


def test_refusals_are_counted_by_limit() -> None:
    async def story() -> None:
        at = stage(answer())
        await at.ask(caller=caller(output_tokens_per_minute=1), max_tokens=50)
        text = at.metrics.render().decode()
        assert 'servery_limit_refusals_total{limit="output_tokens",scope="key"} 1.0' in text

    run(story)


def test_places_are_free_again_when_exchanges_end_however_they_do() -> None:
    async def story() -> None:
        cut = UpstreamFailure(FailureKind.CUT, "gone")
        at = stage(
            answer(), [0.5, asyncio.CancelledError()], [cut], [piece(), ApiError(400, "no")], [5.0, *answer()],
            model={"retry": Retry(attempts=1)},
        )  # fmt: skip
        who = caller(concurrency=1)
        assert (await at.ask(caller=who)).status == 200
        with pytest.raises(asyncio.CancelledError):
            await at.ask(caller=who)
        assert [(await at.ask(caller=who)).status for _ in range(2)] == [502, 400]
        first = asyncio.create_task(at.ask(caller=who))
        await asyncio.sleep(1)
        second = await at.ask(caller=who)
        assert (second.status, error_of(second).retry_after_s) == (429, 1.0)
        assert (await first).status == 200
        assert (await at.ask(caller=who)).status == 200

    run(story)


def test_a_client_that_leaves_before_the_first_token_pays_for_its_prompt() -> None:
    async def story() -> None:
        at = stage([5.0, *answer()])
        who = caller(microusd_per_day=250)
        task = asyncio.create_task(at.ask(caller=who, max_tokens=100))
        await asyncio.sleep(1)
        at.cut_by = "client"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert at.rows.rows[-1].outcome == "client_gone"
        assert "$0.000242 is left" in error_of(await at.ask(caller=who, max_tokens=118)).message

    run(story)


def test_a_client_that_leaves_in_the_middle_pays_for_what_was_written() -> None:
    async def story() -> None:
        at = stage([piece("a", prompt_tokens=10), piece("b"), 60.0, *answer()])
        who = caller(output_tokens_per_minute=600)
        task = asyncio.create_task(at.ask(caller=who, max_tokens=600))
        await asyncio.sleep(0.05)
        at.cut_by = "client"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await left(at, who) == 598

    run(story)


def test_retries_count_once_for_tokens_and_money_is_what_was_spent() -> None:
    async def story() -> None:
        cut = UpstreamFailure(FailureKind.STATUS, "broken", status=500)
        at = stage([cut], answer(prompt=10, generated=4), model={"retry": Retry(attempts=3, budget=1.0)})
        who = caller(requests_per_minute=60, output_tokens_per_minute=600, microusd_per_day=1000)
        assert (await at.ask(caller=who, max_tokens=100)).status == 200
        assert (await left(at, who), await left(at, who, "requests")) == (596, 57)
        error = error_of(await at.ask(caller=who, max_tokens=495))
        assert "$0.000946 is left" in error.message  # three answers, each 10 + 2 x 4

    run(story)


def test_a_fallback_is_paid_by_its_own_price_and_its_dearest_is_reserved() -> None:
    async def story() -> None:
        failure = UpstreamFailure(FailureKind.STATUS, "broken", status=500)
        models = (
            ModelConfig(name="m", tiers=(("a",),), place=Place.FIRST, fallbacks=Fallbacks(error=("other",)), retry=Retry(attempts=1)),
            ModelConfig(name="other", tiers=(("b",),), place=Place.FIRST),
        )  # fmt: skip
        dear = Price(input_per_mtok=10_000_000, cached_per_mtok=0, output_per_mtok=20_000_000)
        at = stage(
            upstreams={"a": Scripted([failure]), "b": Scripted(answer(prompt=10, generated=4))}, models=models,
            deployments={"a": {"price": PRICE}, "b": {"price": dear}},
        )  # fmt: skip
        who = caller(microusd_per_day=1100)
        assert (await at.ask(caller=who, max_tokens=52)).status == 429
        assert (await at.ask(caller=who, max_tokens=50)).status == 200
        assert at.rows.rows[-1].cost_nanousd == 1000 * (10 * 10 + 4 * 20)
        assert "$0.00092 is left" in error_of(await at.ask(caller=who, max_tokens=50)).message

    run(story)


def test_a_thousand_at_once_are_admitted_to_the_limit() -> None:
    async def story() -> None:
        at = stage([1.0, *answer()])
        who = caller(output_tokens_per_minute=663, requests_per_minute=1000, microusd_per_day=10**6)
        tolds = await asyncio.gather(*(at.ask(caller=who, max_tokens=10) for _ in range(1000)))
        assert sum(told.status == 200 for told in tolds) == 66
        assert len(at.upstreams["a"].asks) == 66

    run(story)


def test_keys_of_one_owner_share_its_limit_and_have_their_own() -> None:
    async def story() -> None:
        at = stage(answer(), config={"owners": {"team": Limits(requests_per_minute=3)}})
        keys = [Caller(key=f"k{i}", owner="team", limits=Limits(requests_per_minute=2)) for i in range(2)]
        statuses = [(await at.ask(caller=keys[i])).status for i in (0, 0, 0, 1, 1)]
        assert statuses == [200, 200, 429, 200, 429]

    run(story)


def test_a_model_has_a_limit_for_all_who_ask_it() -> None:
    async def story() -> None:
        at = stage(answer(), model={"limits": Limits(requests_per_minute=2)})
        statuses = [(await at.ask(caller=each)).status for each in (Caller(), Caller(key="k"), Caller(key="l"))]
        assert statuses == [200, 200, 429]

    run(story)


def test_an_image_counts_as_an_image_and_not_as_its_letters() -> None:
    async def story() -> None:
        at = stage(answer())
        url = "data:image/png;base64," + "A" * 400_000
        content = [{"type": "image_url", "image_url": {"url": url}}]
        told = await at.ask(
            caller=caller(input_tokens_per_minute=2_000), messages=[{"role": "user", "content": content}]
        )
        assert 900 <= int(headers(told)["remaining-input-tokens"]) <= 1_000

    run(story)


def test_anthropics_clients_are_told_in_their_own_headers() -> None:
    async def story() -> None:
        at = stage(answer())
        told = await at.ask(
            caller=caller(requests_per_minute=60, output_tokens_per_minute=600), api=Api.MESSAGES, max_tokens=100
        )
        assert headers(told, "anthropic-ratelimit-") == {
            "requests-limit": "60", "requests-remaining": "59", "requests-reset": "2026-11-21T12:00:01Z",
            "tokens-limit": "600", "tokens-remaining": "500", "tokens-reset": "2026-11-21T12:00:10Z",
            "output-tokens-limit": "600", "output-tokens-remaining": "500", "output-tokens-reset": "2026-11-21T12:00:10Z",
        }  # fmt: skip
        assert headers(told) == {}

    run(story)


def test_a_key_may_ask_for_its_models_alone() -> None:
    async def story() -> None:
        at = stage(answer())
        assert (await at.ask(caller=Caller(key="k", models=frozenset({"m"})))).status == 200
        error = error_of(await at.ask(caller=Caller(key="k", models=frozenset({"other"}))))
        assert (error.status, error.code, error.message) == (
            404, "model_not_found", "The model 'm' does not exist. Served here: nothing.",
        )  # fmt: skip
        assert len(at.upstreams["a"].asks) == 1

    run(story)


def test_a_key_is_answered_at_its_tiers_alone_by_stand_ins_too() -> None:
    async def story() -> None:
        failure = UpstreamFailure(FailureKind.STATUS, "broken", status=500)
        models = (
            ModelConfig(name="m", tiers=(("own",), ("api",)), place=Place.FIRST, retry=Retry(attempts=3, budget=1.0), fallbacks=Fallbacks(error=("n",))),
            ModelConfig(name="n", tiers=(("api",),), place=Place.FIRST),
        )  # fmt: skip
        own, api = Scripted([failure]), Scripted(answer())
        at = stage(
            upstreams={"own": own, "api": api}, models=models,
            deployments={"own": {"tier": Tier.SELF_HOSTED}, "api": {"tier": Tier.API}},
        )  # fmt: skip
        who = Caller(key="k", tiers=frozenset({Tier.SELF_HOSTED, Tier.EMBEDDED}))
        told = await at.ask(caller=who)
        assert (told.status, len(api.asks)) == (503, 0)
        assert (await at.ask()).status == 200
        error = error_of(await at.ask(caller=Caller(key="k", tiers=frozenset({Tier.MANAGED}))))
        assert (error.status, error.code, error.message) == (
            404, "model_not_found", "The model 'm' does not exist. Served here: nothing.",
        )  # fmt: skip

    run(story)


def test_a_settled_exchange_is_settled_once() -> None:
    async def story() -> None:
        at = stage(answer())
        who = caller(output_tokens_per_minute=600)
        exchange = at.exchange(Reader(), caller=who, max_tokens=100)
        await at.gateway.handle(exchange)
        lease = exchange.lease
        assert lease is not None
        lease.settle(lease.cost._replace(output_tokens=0))
        assert await left(at, who) == 596

    run(story)
