"""What a client that is refused is told: when the deployment is expected to keep the SLO, or to have nothing to do."""

import pytest

from servery.config.types import Slo
from servery.gateway.dispatch.clearing import clears_s
from servery.gateway.dispatch.prediction import Prediction

SLO = Slo(ttft_s=1.0, tpot_s=0.05)


def upper(ttft_s: float, tpot_s: float) -> Prediction:
    return Prediction(ttft_s=ttft_s, tpot_s=tpot_s, ttft_upper_s=ttft_s, tpot_upper_s=tpot_s)


@pytest.mark.parametrize(
    ("busy", "idle", "after_s"),
    [
        (upper(0.5, 0.01), upper(0.1, 0.01), 0.0),
        (upper(3.5, 0.01), upper(0.1, 0.01), 2.5),  # the excess passes
        (upper(0.5, 0.09), upper(0.1, 0.01), 5.0),  # half of the answers have to end
        (upper(3.5, 0.09), upper(0.1, 0.01), 5.0),
        (upper(9.0, 0.09), upper(0.1, 0.01), 8.0),
        (upper(3.5, 0.01), upper(1.1, 0.01), 10.0),  # only alone, and late even then
        (upper(0.5, 0.09), upper(0.1, 0.06), 10.0),
    ],
)
def test_what_is_late_passes_and_what_is_slow_takes_answers_to_end(
    busy: Prediction, idle: Prediction, after_s: float
) -> None:
    assert clears_s(busy, idle, SLO, answer_s=10.0) == pytest.approx(after_s)
