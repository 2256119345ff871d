import itertools

import pytest

from servery.config.types import Slo
from servery.gateway.admit.limits.refusal import OverLimit
from servery.gateway.exchange import Outcome
from servery.gateway.settle.record import Record
from servery.gateway.settle.verdict import verdict_of
from servery.telemetry.exchange_tallies import GOOD, MISSED_BY, OUTCOMES
from servery.telemetry.metrics import Metrics
from servery.upstream.failure import Deadline, Kind, UpstreamFailure
from servery.upstream.upstream import Chunk
from servery.wire.errors import failed, invalid, rate_limited

SLO = Slo(ttft_s=1.0, tpot_s=0.5)
OVER = OverLimit(429, "too much", kind="tokens", code="rate_limit_exceeded")
SLOW = UpstreamFailure(Kind.TIMEOUT, "slow", deadline=Deadline.FIRST_TOKEN)


def record(*at_s: float) -> Record:
    """An answer whose tokens came at these times, of a request that came at 0."""
    made = Record(Metrics(), "m", 0.0, lambda: 0.0)
    for each in at_s:
        made.add(Chunk(tokens=1), each)
    return made


@pytest.mark.parametrize(
    ("tokens_s", "verdict"),
    [
        ((), GOOD),  # an answer without a token is not late
        ((1.0,), GOOD),
        ((1.0, 1.5, 2.0), GOOD),
        ((1.01, 1.2), "ttft"),
        ((0.5, 1.01), "tpot"),
        ((1.01, 2.0), "ttft"),  # both: the first counts
    ],
)
def test_a_completed_answer_is_judged_by_its_times(tokens_s: tuple[float, ...], verdict: str) -> None:
    assert verdict_of(SLO, record(*tokens_s), Outcome.COMPLETED, None, 200, None) == verdict
    assert verdict_of(None, record(*tokens_s), Outcome.COMPLETED, None, 200, None) is None


@pytest.mark.parametrize(
    ("outcome", "error", "status", "cache", "verdict"),
    [
        (Outcome.COMPLETED, None, 200, "stale", "stale"),
        (Outcome.REFUSED, rate_limited("full", 1.0), 429, None, "shed"),
        (Outcome.REFUSED, UpstreamFailure(Kind.THROTTLED, "later"), 429, None, "shed"),
        (Outcome.REFUSED, OVER, 429, None, None),
        (Outcome.REFUSED, invalid("wrong"), 400, None, None),
        (Outcome.CLIENT_GONE, None, 499, None, None),
        (Outcome.SHUTDOWN, None, 503, None, None),
        (Outcome.TIMEOUT, None, 504, None, "timeout"),
        (Outcome.FAILED, SLOW, 504, None, "timeout"),
        (Outcome.FAILED, failed("broken"), 500, None, "error"),
        (Outcome.FAILED, UpstreamFailure(Kind.CUT, "cut"), 502, None, "error"),
    ],
    ids=repr,
)
def test_what_did_not_end_well_is_a_miss_unless_it_is_the_client_s_own_doing(
    outcome: Outcome, error: BaseException | None, status: int, cache: str | None, verdict: str | None
) -> None:
    assert verdict_of(SLO, record(0.1), outcome, error, status, cache) == verdict
    assert verdict_of(None, record(0.1), outcome, error, status, cache) is None


def test_the_metrics_know_every_outcome() -> None:
    assert tuple(each.value for each in Outcome) == OUTCOMES


def test_every_end_has_one_verdict_of_those_that_metrics_know() -> None:
    errors = (None, OVER, SLOW, failed("broken"), rate_limited("full", 1.0))
    for outcome, error, status, cache in itertools.product(
        Outcome, errors, (200, 429, 499, 500, 504, None), (None, "stale")
    ):
        assert verdict_of(SLO, record(2.0), outcome, error, status, cache) in (None, GOOD, *MISSED_BY)
