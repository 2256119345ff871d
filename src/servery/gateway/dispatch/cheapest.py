"""The cheapest deployment that is predicted to keep the model's SLO; capacity paid for by the hour is free until full."""

from collections.abc import Sequence
from dataclasses import dataclass

from servery.config.types import Overload, Slo
from servery.gateway.dispatch.prediction import Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A deployment that could take a request: in which tier, whether it has a place free, what it would do and cost.

    `cost` is in micro-dollars, what this request adds to the bill. `is_idle`: nothing of the model's is under way there.
    `clears_s` is after how long it is expected to keep the SLO, or to be idle. `doublings` tells how far the load would be
    beyond what it was seen to bear. `is_due`: it may be tried, whatever is predicted.
    """

    name: str
    tier: int
    has_place: bool
    prediction: Prediction
    cost: int
    is_idle: bool = False
    clears_s: float = 0.0
    doublings: int = 0
    is_due: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Where to send a request, in this order, unless a new one is to wait (`wait_s`) or to be refused (`shed_s`).

    `wait_s` is about when a place that keeps the SLO is expected, `shed_s` what the client is told of that.
    """

    ranked: tuple[str, ...] = ()
    wait_s: float | None = None
    shed_s: float | None = None
    is_within_slo: bool = True


def cheapest_within_slo(options: Sequence[Option], slo: Slo, overload: Overload) -> Decision:
    """Rank those that keep `slo` by cost, then tier, then predicted TTFT; if none does, do as `overload` says.

    A load that was never seen is predicted worst, so those that have borne such a one come before those that have not. One
    that is cheaper and due is tried, though it is not predicted to keep it.
    Those that do not keep it come behind, fastest first: an attempt that fails has somewhere to go. Where requests would
    have to wait or go, the fastest that is idle is sent one nevertheless: waiting makes nothing better there, and that its
    prediction is wrong can be learnt only by trying.
    """
    keeping = [option for option in options if option.has_place and keeps(option.prediction, slo)]
    others = [option for option in options if option not in keeping]
    keeping.sort(key=lambda option: (option.doublings, option.cost, option.tier, option.prediction.ttft_s))
    others.sort(key=lambda option: (not option.has_place, option.prediction.ttft_s, option.cost))
    ranked = tuple(option.name for option in (*keeping, *others))
    if keeping or not options:
        tried = next((each.name for each in others if _is_tried(each, keeping)), None)
        return Decision(ranked=ranked if tried is None else _led_by(tried, ranked))
    if overload is Overload.BEST_EFFORT:
        return Decision(ranked=ranked, is_within_slo=False)
    idle = next((option.name for option in others if option.has_place and option.is_idle), None)
    if idle is not None:
        return Decision(ranked=_led_by(idle, ranked), is_within_slo=False)
    soonest_s = max(min(option.clears_s for option in options), _step_s(options))
    if overload is Overload.SHED:
        return Decision(ranked=ranked, shed_s=soonest_s, is_within_slo=False)
    return Decision(ranked=ranked, wait_s=soonest_s, is_within_slo=False)


def keeps(prediction: Prediction, slo: Slo) -> bool:
    """Whether the times that cover most requests are within the SLO."""
    return prediction.ttft_upper_s <= slo.ttft_s and prediction.tpot_upper_s <= slo.tpot_s


def _is_tried(option: Option, keeping: Sequence[Option]) -> bool:
    return option.is_due and option.has_place and option.cost < min(each.cost for each in keeping)


def _led_by(name: str, ranked: Sequence[str]) -> tuple[str, ...]:
    return (name, *(each for each in ranked if each != name))


def _step_s(options: Sequence[Option]) -> float:
    """The least time in which anything can change: a token of the fastest deployment."""
    return min(option.prediction.tpot_s for option in options)
