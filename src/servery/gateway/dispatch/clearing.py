"""How long until a deployment that is too busy for an SLO is not: what a client that is refused is told."""

from servery.config.types import Slo
from servery.gateway.dispatch.prediction import Prediction


def clears_s(busy: Prediction, idle: Prediction, slo: Slo, answer_s: float) -> float:
    """Seconds until a request that would have `busy` would keep `slo`; `idle` is what it would have with nobody else there.

    A late first token comes earlier by the time that passes, slow tokens become faster as answers end: of those under way
    all do within `answer_s`, evenly. Where nothing else would do, an idle deployment takes one whatever is predicted.
    """
    if idle.ttft_upper_s > slo.ttft_s or idle.tpot_upper_s > slo.tpot_s:
        return answer_s
    late_s = max(busy.ttft_upper_s - slo.ttft_s, 0.0)
    slow_s = max(busy.tpot_upper_s - slo.tpot_s, 0.0)
    if slow_s:
        late_s = max(late_s, answer_s * min(slow_s / max(busy.tpot_upper_s - idle.tpot_upper_s, slow_s), 1.0))
    return late_s
