import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from servery.config.types import Fallbacks, ModelConfig, Overload, Place, Retry, Tier, Timeouts
from servery.config.types import Kind as DeploymentKind
from servery.gateway.dispatch.deployment import Deployment
from servery.gateway.dispatch.outcome import AttemptOutcome
from servery.gateway.dispatch.place import First, Ranked, Watch
from servery.upstream.ask import Ask
from servery.upstream.caller import ANYBODY
from servery.upstream.failure import Deadline, Kind, UpstreamFailure
from servery.upstream.upstream import Chunk, Health
from servery.wire.errors import ApiError, context_length_exceeded, invalid, rate_limited, unavailable
from tests.gateway.scripted import Scripted, Stage, Step, piece
from tests.gateway.virtual_time import now, run

OK = (piece("a"), piece("b"))
REFUSED = UpstreamFailure(Kind.REFUSED, "nobody listens")
BROKEN = UpstreamFailure(Kind.STATUS, "broken", status=500)


def throttled(retry_after_s: float | None = None) -> UpstreamFailure:
    return UpstreamFailure(Kind.THROTTLED, "later", status=429, retry_after_s=retry_after_s)


def stage(*scripts: list[Any] | tuple[Any, ...], **fields: Any) -> tuple[Stage, list[Scripted]]:
    """Deployments `a`, `b`, ... with one script for all their requests; those of several attempts are lists of scripts."""
    upstreams = [Scripted(*(script if isinstance(script, list) else [script])) for script in scripts]
    return Stage(dict(zip("abcdefgh", upstreams, strict=False)), **fields), upstreams


@pytest.mark.parametrize(
    "failure",
    [
        REFUSED,
        UpstreamFailure(Kind.RESET, "reset"),
        BROKEN,
        UpstreamFailure(Kind.STATUS, "no such key", status=401),
        throttled(30.0),
        UpstreamFailure(Kind.OVERLOADED, "full"),
        UpstreamFailure(Kind.MALFORMED, "<html>"),
        UpstreamFailure(Kind.CUT, "cut"),
        UpstreamFailure(Kind.TIMEOUT, "slow", deadline=Deadline.CONNECT),
        unavailable("the engine is gone", 1.0),
        rate_limited("full", 2.0),
    ],
    ids=lambda failure: getattr(failure, "name", None) or str(failure),
)
@pytest.mark.parametrize("stream", [True, False])
def test_before_the_first_chunk_another_deployment_answers_and_the_client_notices_nothing(
    failure: Exception, stream: bool
) -> None:
    async def story() -> None:
        made, (first, second) = stage((Chunk(prompt_tokens=3, tokens=0), failure), OK)
        told = await made.ask(stream=stream)
        assert (told.status, told.client.data, told.client.is_ended) == (200, b"data: a\n\ndata: b\n\n", True)
        assert (first.closed, second.closed) == (1, 1)
        assert dict(told.client.headers) == {
            "x-servery-model": "m", "x-servery-deployment": "b", "x-servery-attempts": "2",
        }  # fmt: skip
        row = told.row
        assert (row.outcome, row.deployment, row.attempts, row.prompt_tokens, row.status) == (
            "completed",
            "b",
            2,
            8,  # guessed by its size, because nobody told
            200,
        )

    run(story)


def test_a_name_that_no_header_can_carry_is_written_so_that_it_can() -> None:
    async def story() -> None:
        made = Stage({"größe\r\nx: y": Scripted(OK)})
        headers = dict((await made.ask()).client.headers)
        assert headers["x-servery-deployment"] == "gr%C3%B6%C3%9Fe%0D%0Ax: y"

    run(story)


def test_what_is_the_client_s_own_fault_is_told_at_once_and_held_against_nobody() -> None:
    async def story() -> None:
        made, (first, second) = stage((invalid("'n' is 0", "n"),), OK)
        for _ in range(10):
            told = await made.ask()
        assert (told.status, told.row.outcome, len(first.calls), len(second.calls)) == (400, "refused", 10, 0)
        assert told.error is not None
        assert not told.error.is_final

    run(story)


def test_a_silent_deployment_is_never_asked_twice() -> None:
    async def story() -> None:
        made, (silent,) = stage((100.0, *OK), model={"timeouts": Timeouts(first_token_s=10.0)})
        told = await made.ask()
        assert (told.status, told.row.error, told.took_s) == (504, "first_token_timeout", 10.0)
        assert (len(silent.calls), silent.closed) == (1, 1)

    run(story)


def test_a_silent_deployment_is_left_for_another_one() -> None:
    async def story() -> None:
        made, (_, second) = stage((100.0, *OK), OK, model={"timeouts": Timeouts(first_token_s=10.0)})
        told = await made.ask()
        assert (told.status, told.took_s, len(second.calls)) == (200, 10.0, 1)

    run(story)


@pytest.mark.parametrize("stream", [True, False])
def test_a_silent_deployment_is_not_asked_again_for_the_model_that_stands_in(stream: bool) -> None:
    async def story() -> None:
        timeouts = Timeouts(first_token_s=10.0, answer_s=10.0)
        models = [
            ModelConfig(name="m", tiers=(("a",),), timeouts=timeouts, fallbacks=Fallbacks(error=("n", "o"))),
            ModelConfig(name="n", tiers=(("a",),), timeouts=timeouts),
            ModelConfig(name="o", tiers=(("a", "b"),), place=Place.FIRST, timeouts=timeouts),
        ]
        made, (silent, second) = stage((100.0, *OK), OK, models=models)
        told = await made.ask(stream=stream)
        assert (told.status, told.took_s, len(silent.calls), len(second.calls)) == (200, 10.0, 1, 1)

    run(story)


def test_progress_without_data_keeps_a_deployment_from_being_taken_for_silent() -> None:
    async def story() -> None:
        thinking = (9.0, Chunk(tokens=1), 9.0, Chunk(tokens=1), 9.0, piece("a"))
        made, _ = stage(thinking, model={"timeouts": Timeouts(first_token_s=10.0, stall_s=10.0)})
        assert (await made.ask()).status == 200

    run(story)


def test_an_answer_that_is_not_streamed_may_take_its_time_in_silence() -> None:
    async def story() -> None:
        made, _ = stage((100.0, Chunk(data=b"{}")), model={"timeouts": Timeouts(first_token_s=10.0)})
        assert (await made.ask(stream=False)).client.data == b"{}"

    run(story)


OWN = {"a": {"kind": DeploymentKind.EMBEDDED}}
LIMITS = {"timeouts": Timeouts(first_token_s=10.0, stall_s=5.0)}


@pytest.mark.parametrize(
    ("script", "error", "took_s"),
    [
        ((100.0, Chunk(data=b"{}")), "first_token_timeout", 10.0),
        ((9.0, Chunk(tokens=1), 4.0, Chunk(tokens=1), 100.0, Chunk(data=b"{}")), "stall_timeout", 18.0),
        ((9.0, Chunk(tokens=1), 4.0, Chunk(tokens=1), 4.0, Chunk(data=b"{}")), None, 17.0),
    ],
)
def test_of_an_engine_of_this_process_silence_is_known_also_when_it_does_not_stream(
    script: tuple[Step, ...], error: str | None, took_s: float
) -> None:
    async def story() -> None:
        made, (own,) = stage(script, model=LIMITS, deployments=OWN)
        told = await made.ask(stream=False)
        assert (told.row.error, told.took_s, own.closed) == (error, took_s, 1)
        assert (await made.ask(stream=False, priority=1)).status == 200  # what is in the background has time

    run(story)


def test_a_limit_for_answers_that_are_not_streamed_sends_them_elsewhere_in_time() -> None:
    async def story() -> None:
        made, (slow, _) = stage((100.0, *OK), OK, model={"timeouts": Timeouts(answer_s=7.0)})
        told = await made.ask(stream=False)
        assert (told.row.deployment, told.took_s, slow.closed) == ("b", 7.0, 1)
        assert [call.stall_s for call in slow.calls] == [30.0]

    run(story)


class Hesitant(First):
    """Has everybody wait for a second, again and again."""

    why_alone = None

    def rank(self, tiers: Sequence[Sequence[Deployment]], ask: Ask) -> Ranked:
        return Ranked([], wait_s=1.0)


class Broken(First):
    """Cannot take down what was sent."""

    def sent(self, deployment: Deployment, ask: Ask) -> Watch:
        raise ValueError("not this one")


def test_a_place_that_was_taken_is_given_back_whatever_fails_before_the_deployment_is_asked() -> None:
    async def story() -> None:
        made, (only,) = stage(OK)
        fleet = made.gateway.fleet
        models = {"m": dataclasses.replace(fleet.models["m"], placement=Broken())}
        made.gateway.swap(dataclasses.replace(fleet, models=models))
        with pytest.raises(ValueError, match="not this one"):
            await made.ask()
        assert (only.calls, fleet.deployments["a"].slots.in_flight) == ([], 0)

    run(story)


def test_a_turn_is_waited_for_as_long_as_the_limit_says_and_then_refused_with_the_time_to_come_back() -> None:
    async def story() -> None:
        made, (only,) = stage(OK, model={"timeouts": Timeouts(queue_s=3.5)})
        fleet = made.gateway.fleet
        models = {"m": dataclasses.replace(fleet.models["m"], placement=Hesitant())}
        made.gateway.swap(dataclasses.replace(fleet, models=models))
        told = await made.ask()
        assert (told.status, told.row.error, told.took_s, only.calls) == (429, "overloaded", 3.5, [])
        assert told.error is not None
        assert told.error.retry_after_s == 1.0

    run(story)


def test_a_place_is_waited_for_as_long_as_the_limit_says_at_all_deployments_together() -> None:
    async def story() -> None:
        busy = {name: {"max_concurrency": 1} for name in "ab"}
        made, _ = stage(OK, OK, model={"timeouts": Timeouts(queue_s=3.0)}, deployments=busy)
        held = [await each.enter(0) for each in made.gateway.fleet.deployments.values()]
        told = await made.ask()
        assert (told.status, told.took_s, told.row.attempts) == (429, 3.0, 0)
        for each in held:
            each.leave()
        assert (await made.ask()).status == 200

    run(story)


def test_the_same_deployment_is_asked_again_after_a_wait_by_chance_when_there_is_no_other() -> None:
    async def story() -> None:
        made, (only,) = stage([(BROKEN,), (BROKEN,), OK], model={"retry": Retry(attempts=3, base_s=1.0, max_s=4.0)})
        told = await made.ask()
        assert (told.status, told.row.attempts) == (200, 3)
        gaps = [after - before for before, after in zip(only.times, only.times[1:], strict=False)]
        assert [0 < gap < most for gap, most in zip(gaps, (1.0, 2.0), strict=True)] == [True, True]

    run(story)


def test_when_the_retries_are_spent_the_client_is_told_not_to_try_again() -> None:
    async def story() -> None:
        made, (only,) = stage((BROKEN,), model={"retry": Retry(attempts=3)})
        told = await made.ask()
        assert (told.status, len(only.calls)) == (503, 3)
        assert told.error is not None
        assert ("x-should-retry", "false") in told.error.headers

    run(story)


def test_retries_stay_within_the_budget_whatever_each_request_may_have() -> None:
    async def story() -> None:
        made, upstreams = stage(
            (REFUSED,), (REFUSED,), (REFUSED,), model={"retry": Retry(attempts=10, budget=0.1, base_s=0.0)}
        )
        for each in made.gateway.fleet.deployments.values():
            each.breaker.policy = each.breaker.policy.__class__(consecutive=10**6, least_volume=10**6)
        tolds = [await made.ask() for _ in range(40)]
        sent = sum(len(each.calls) for each in upstreams)
        assert 40 + 10 <= sent <= 40 + 10 + 4 + 1  # the reserve, and a tenth of the traffic
        assert all(told.error is not None and told.error.is_final for told in tolds[-5:])

    run(story)


def test_retry_after_is_honoured_by_waiting_when_it_is_short() -> None:
    async def story() -> None:
        made, (only,) = stage([(throttled(2.0),), OK], model={"retry": Retry(max_s=5.0)})
        told = await made.ask()
        assert (told.status, len(only.calls)) == (200, 2)
        assert 2.0 <= only.times[1] - only.times[0] < 2.5

    run(story)


def test_retry_after_that_is_long_is_told_to_the_client_and_to_those_that_come_after() -> None:
    async def story() -> None:
        made, (only,) = stage([(throttled(60.0),), OK], model={"retry": Retry(max_s=5.0)})
        first, second = await made.ask(), await made.ask()
        assert [(told.status, told.row.outcome) for told in (first, second)] == [(429, "refused")] * 2
        assert second.error is not None
        assert second.error.retry_after_s == 60.0
        assert len(only.calls) == 1

    run(story)


def test_a_deployment_that_keeps_failing_is_left_alone_and_one_request_tries_it_again() -> None:
    async def story() -> None:
        made, (first, second) = stage([*[(REFUSED,)] * 5, OK], OK)
        for _ in range(8):
            assert (await made.ask()).status == 200
        assert (len(first.calls), len(second.calls)) == (5, 8)
        breaker = made.gateway.fleet.deployments["a"].breaker
        assert breaker.retry_after_s(now()) == 5.0
        await asyncio.sleep(5.0)
        assert (await made.ask()).row.deployment == "a"

    run(story)


def test_if_nobody_may_be_asked_the_client_is_told_when() -> None:
    async def story() -> None:
        made, (only,) = stage((REFUSED,), model={"retry": Retry(attempts=1)})
        tolds = [await made.ask() for _ in range(6)]
        assert [told.status for told in tolds] == [503] * 6
        assert len(only.calls) == 5
        last = tolds[-1].error
        assert last is not None
        assert (last.retry_after_s, last.message) == (5.0, "'a' has been failing; it is tried again in 5.0 s.")

    run(story)


def test_one_that_says_it_is_not_ready_is_asked_only_if_there_is_no_other() -> None:
    async def story() -> None:
        made, (first, _) = stage(OK, [OK, (REFUSED,)])
        first.state = Health(False, "it is loading", 0.0)
        assert (await made.ask()).row.deployment == "b"
        assert (await made.ask()).row.deployment == "a"

    run(story)


def test_an_engine_of_this_process_is_judged_by_what_it_says_alone() -> None:
    async def story() -> None:
        own = {"a": {"kind": DeploymentKind.EMBEDDED}}
        made, (only,) = stage((rate_limited("full", 9.0),), deployments=own, model={"retry": Retry(attempts=1)})
        for _ in range(20):
            assert (await made.ask()).status == 429
        assert len(only.calls) == 20

    run(story)


def test_requests_beyond_the_cap_wait_in_order_and_those_beyond_the_queue_are_refused() -> None:
    async def story() -> None:

        cap = {"a": {"max_concurrency": 1, "max_queue": 2}}
        made, (only,) = stage((10.0, *OK), deployments=cap, model={"retry": Retry(attempts=1)})
        tasks = [asyncio.create_task(made.ask()) for _ in range(4)]
        tolds = await asyncio.gather(*tasks)
        assert [(told.status, told.took_s) for told in tolds] == [(200, 10.0), (200, 20.0), (200, 30.0), (429, 0.0)]
        assert [at - only.times[0] for at in only.times] == [0.0, 10.0, 20.0]

    run(story)


def test_a_full_deployment_is_passed_over_for_one_that_has_a_place_in_the_next_tier() -> None:
    async def story() -> None:

        cap = {"a": {"max_concurrency": 1}}
        made, _ = stage((10.0, *OK), (10.0, *OK), deployments=cap, model={"tiers": (("a",), ("b",))})
        tolds = await asyncio.gather(*[made.ask() for _ in range(3)])
        assert [told.row.deployment for told in tolds] == ["a", "b", "b"]

    run(story)


def chain(**fallbacks: tuple[str, ...]) -> list[ModelConfig]:
    names = [("m", "a"), ("n", "b"), ("o", "c")]
    chains = {"m": Fallbacks(**fallbacks)}
    return [
        ModelConfig(
            name=name,
            tiers=((each,),),
            place=Place.FIRST,
            retry=Retry(attempts=1),
            fallbacks=chains.get(name, Fallbacks()),
        )
        for name, each in names
    ]


FALLBACKS: list[tuple[dict[str, tuple[str, ...]], list[Step], str | None]] = [
    ({"error": ("n", "o")}, [BROKEN], "b"),
    ({"error": ("o",)}, [BROKEN], "c"),
    ({"context_window": ("n",)}, [BROKEN], None),
    ({"context_window": ("n",)}, [context_length_exceeded(5, 9, None, "messages")], "b"),
    ({"error": ("n",)}, [context_length_exceeded(5, 9, None, "messages")], None),
    ({"content_policy": ("o",)}, [ApiError(400, "no", code="content_filter")], "c"),
    ({"error": ("n",), "context_window": ("n",)}, [ApiError(400, "no", code="content_filter")], None),
    ({"error": ("n",)}, [invalid("wrong")], None),
]


@pytest.mark.parametrize(("fallbacks", "script", "answers"), FALLBACKS)
def test_each_kind_of_failure_has_its_own_chain_of_models(
    fallbacks: dict[str, tuple[str, ...]], script: list[Step], answers: str | None
) -> None:
    async def story() -> None:
        made, _ = stage(tuple(script), OK, OK, models=chain(**fallbacks))
        told = await made.ask()
        assert (told.row.deployment if told.status == 200 else None) == answers
        if answers is not None:
            assert told.row.served_model == {"b": "n", "c": "o"}[answers]
            assert (told.row.model, dict(told.client.headers)["x-servery-model"]) == ("m", told.row.served_model)

    run(story)


def test_the_model_and_the_deployment_that_an_answer_names_belong_together() -> None:
    async def story() -> None:
        dear = {"b": {"tier": Tier.API}}
        made, (_, second, _) = stage((BROKEN,), OK, OK, models=chain(error=("n",)), deployments=dear)
        # The caller may not have the tier of the only deployment of the model to fall back on.
        told = await made.ask(caller=dataclasses.replace(ANYBODY, tiers=frozenset((Tier.SELF_HOSTED,))))
        headers = dict(told.client.headers)
        assert (told.status, len(second.calls)) == (503, 0)
        assert (headers["x-servery-model"], headers["x-servery-deployment"]) == ("m", "a")

    run(story)


def test_when_every_model_of_the_chain_fails_the_client_is_told_of_the_one_it_asked() -> None:
    async def story() -> None:
        mine = UpstreamFailure(Kind.STATUS, "mine", status=500)
        made, upstreams = stage((mine,), (BROKEN,), (REFUSED,), models=chain(error=("n", "o")))
        told = await made.ask()
        assert told.error is not None
        assert (told.status, told.error.message, [len(each.calls) for each in upstreams]) == (503, "mine", [1, 1, 1])

    run(story)


def test_an_upstream_s_word_on_this_server_s_own_key_is_not_repeated() -> None:
    async def story() -> None:
        error = ApiError(401, "Incorrect API key provided: sk-12345", code="invalid_api_key")
        made, _ = stage((UpstreamFailure(Kind.STATUS, "key", status=401, error=error),))
        told = await made.ask()
        assert told.error is not None
        assert (told.status, told.error.code) == (502, "upstream_refused")
        assert "sk-" not in told.error.message

    run(story)


def test_no_retry_begins_that_the_total_time_does_not_allow() -> None:
    async def story() -> None:
        made, (only,) = stage((throttled(4.0),), model={"retry": Retry(attempts=9, max_s=5.0)}, total_s=6.0)
        told = await made.ask()
        assert (told.status, len(only.calls), told.took_s < 6.0) == (429, 2, True)

    run(story)


class Gate(First):
    """Has everybody wait while one is under way; counts how often it is asked."""

    why_alone = None

    def __init__(self) -> None:
        self.places, self.asked = 1, 0

    def rank(self, tiers: Sequence[Sequence[Deployment]], ask: Ask) -> Ranked:
        self.asked += 1
        return super().rank(tiers, ask) if self.places > 0 else Ranked([], wait_s=1e4)

    def sent(self, deployment: Deployment, ask: Ask) -> Watch:
        self.places -= 1
        return _Leaving(self)


class _Leaving(Watch):
    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def over(self, outcome: AttemptOutcome) -> None:
        self._gate.places += 1


def test_who_waits_for_the_slo_goes_by_priority_then_in_order_and_is_woken_by_what_ends() -> None:
    async def story() -> None:
        made, (only,) = stage((5.25, *OK), model={"overload": Overload.QUEUE}, deployments={"a": {"max_queue": 3}})
        gate, fleet = Gate(), made.gateway.fleet
        served = dataclasses.replace(fleet.models["m"], placement=gate)
        made.gateway.swap(dataclasses.replace(fleet, models={"m": served}))
        tasks = []
        for name, priority in (("first", 0), ("batch", 1), ("second", 0), ("third", 0)):
            tasks.append(asyncio.create_task(made.ask(priority=priority, user=name)))
            await asyncio.sleep(0.01)
        told = await made.ask(user="too many")
        assert (told.status, told.row.error, told.row.attempts) == (429, "overloaded", 0)
        gate.asked = 0
        await asyncio.sleep(4.0)
        assert gate.asked <= 5  # by the first of the three, once a second
        await asyncio.gather(*tasks)
        assert [msgspec.json.decode(ask.body)["user"] for ask in only.asks] == ["first", "second", "third", "batch"]
        # Each was sent when the one before it ended, not when the next look was due.
        gaps = [after - before for before, after in zip(only.times, only.times[1:], strict=False)]
        assert gaps == pytest.approx([5.25] * 3, abs=0.001)

    run(story)
