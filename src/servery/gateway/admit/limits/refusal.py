"""What a client is told of a limit that it has reached. Pure."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from servery.gateway.admit.limits.meter import UNIT, Cost, Measure, Meter, day_of, month_begins, month_of
from servery.wire.errors import ApiError

_DAY_S = 86_400
# Nobody knows when one of the exchanges under way will end; soon enough to ask again.
_UNDER_WAY_WAIT_MS = 1_000
# The official clients wait no longer than this by themselves.
_PATIENCE_MS = 60_000
_NOUNS = {
    Measure.REQUESTS: "requests per minute",
    Measure.INPUT_TOKENS: "input tokens per minute",
    Measure.OUTPUT_TOKENS: "output tokens per minute",
    Measure.CONCURRENCY: "requests at a time",
    Measure.DAY: "per day",
    Measure.MONTH: "per month",
}
_MICRO = 10**6
_NOTHING: Mapping[Meter, int] = MappingProxyType({})


class OverLimit(ApiError):
    """429 for what is more than a key, an owner or a model may have: agreed, and no fault of the server's."""


def wait_ms(meter: Meter, used: int, cost: Cost, at_s: float, reserved: int = 0) -> int | None:
    """How long until the meter takes the cost, if nobody else comes; None: it never will.

    `reserved` is how much of a budget's `used` is held by requests under way: most of it is given back as they end.
    """
    amount = meter.amount(cost)
    if meter.rate:
        return meter.wait_ms(used, amount)
    if amount > meter.capacity:
        return None
    if meter.measure is Measure.CONCURRENCY or used - reserved + amount <= meter.capacity:
        return _UNDER_WAY_WAIT_MS
    day = day_of(int(at_s))
    end = day + 1 if meter.measure is Measure.DAY else month_begins(month_of(day) + 1)
    return math.ceil(1000 * (end * _DAY_S - at_s))


def refused(
    short: Sequence[tuple[Meter, int]], cost: Cost, at_s: float, reserved: Mapping[Meter, int] = _NOTHING
) -> OverLimit:
    """429, of the meter that takes longest; raises `ValueError` if none is short.

    With when to ask again, to the millisecond. Clients are told not to by themselves where that is never, or long.
    `reserved` is as `wait_ms` takes it, of each meter that has any.
    """
    waits = [(wait_ms(meter, used, cost, at_s, reserved.get(meter, 0)), meter, used) for meter, used in short]
    longest, meter, used = max(waits, key=lambda each: math.inf if each[0] is None else each[0])
    who = f"{meter.scope} '{meter.name}'"
    if longest is None:
        message = (
            f"The request may take {_amount(meter, meter.amount(cost))}, more than {who} is ever allowed at once "
            f"({_limit(meter)}). {_ADVICE[meter.measure]}"
        )
        return OverLimit(429, message, kind=_kind(meter), code=_code(meter, is_never=True), is_final=True)
    held_microusd = reserved.get(meter, 0)
    is_held = held_microusd > 0 and longest == _UNDER_WAY_WAIT_MS
    held = f" while requests under way hold {_dollars(held_microusd)}" if is_held else ""
    message = (
        f"The limit of {who} is {_limit(meter)}: {_left(meter, used)} left{held}, and this request may take "
        f"{_amount(meter, meter.amount(cost))}. Ask again in {_span(longest)}."
    )
    return OverLimit(
        429,
        message,
        kind="requests" if is_held else _kind(meter),
        code="rate_limit_exceeded" if is_held else _code(meter, is_never=False),
        retry_after_s=longest / 1000,
        is_final=longest > _PATIENCE_MS,
        headers=() if longest > _PATIENCE_MS else (("x-should-retry", "true"),),
    )


_ADVICE = {
    Measure.REQUESTS: "Its limit has to be raised.",
    Measure.INPUT_TOKENS: "Shorten the prompt, or have the limit or its burst raised.",
    Measure.OUTPUT_TOKENS: "Ask for a lower max_tokens or n, or have the limit or its burst raised.",
    Measure.CONCURRENCY: "Its limit has to be raised.",
    Measure.DAY: "Ask for a lower max_tokens, or have the budget raised.",
    Measure.MONTH: "Ask for a lower max_tokens, or have the budget raised.",
}


def _kind(meter: Meter) -> str:
    """OpenAI's `type` of the error: what has run out."""
    if meter.measure.is_budget:
        return "insufficient_quota"
    return "tokens" if meter.measure in (Measure.INPUT_TOKENS, Measure.OUTPUT_TOKENS) else "requests"


def _code(meter: Meter, *, is_never: bool) -> str:
    if meter.measure.is_budget:
        return "insufficient_quota"
    return "request_over_limit" if is_never else "rate_limit_exceeded"


def _limit(meter: Meter) -> str:
    if meter.measure.is_budget:
        return f"{_dollars(meter.limit)} {_NOUNS[meter.measure]}"
    text = f"{meter.limit} {_NOUNS[meter.measure]}"
    most = meter.left(0)
    return text if not meter.rate or most == meter.limit else f"{text}, {most} at once"


def _left(meter: Meter, used: int) -> str:
    left = meter.left(used)
    return f"{_dollars(left)} is" if meter.measure.is_budget else f"{left} {'is' if left == 1 else 'are'}"


def _amount(meter: Meter, amount: int) -> str:
    if meter.measure.is_budget:
        return _dollars(amount)
    part = amount if not meter.rate else amount // UNIT
    noun = "token" if meter.measure in (Measure.INPUT_TOKENS, Measure.OUTPUT_TOKENS) else "request"
    return f"{part} {noun}{'' if part == 1 else 's'}"


def _dollars(microusd: int) -> str:
    whole, part = divmod(microusd, _MICRO)
    text = f"{part:06d}"
    return f"${whole}.{text[:2] if text.endswith('0000') else text.rstrip('0')}"


def _span(span_ms: int) -> str:
    seconds = span_ms / 1000
    if seconds < 120:
        return f"{seconds:g} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{math.ceil(minutes / 60)} h"
