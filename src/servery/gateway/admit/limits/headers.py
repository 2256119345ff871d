"""The headers that tell a client how much it may still take: OpenAI's, and Anthropic's for its own API. Pure."""

import datetime
import functools
import math
from collections.abc import Sequence

from servery.gateway.admit.limits.meter import UNIT, Measure, Meter

_TOKENS = (Measure.INPUT_TOKENS, Measure.OUTPUT_TOKENS)
# What a header speaks of: one measure, or tokens of both kinds, of which the scarcer counts.
_SUBJECTS = (
    ("requests", (Measure.REQUESTS,)),
    ("tokens", _TOKENS),
    ("input-tokens", (Measure.INPUT_TOKENS,)),
    ("output-tokens", (Measure.OUTPUT_TOKENS,)),
)


class HeaderNames:
    """Which meters a plan's headers speak of, found out once for all of its requests: by their place in the plan."""

    __slots__ = ("_subjects",)

    def __init__(self, meters: Sequence[Meter]) -> None:
        self._subjects = tuple(
            _Subject(name, places)
            for name, measures in _SUBJECTS
            if (places := tuple((at, meter) for at, meter in enumerate(meters) if meter.measure in measures))
        )

    def openai(self, used: Sequence[int]) -> list[tuple[str, str]]:
        """`x-ratelimit-limit-requests` and so on; `used` is of each meter."""
        found: list[tuple[str, str]] = []
        for subject in self._subjects:
            at, meter, limit = subject.only or subject.scarcest(used)
            held, room = used[at], meter.capacity - used[at]
            found += (
                limit,
                (subject.remaining, f"{room // UNIT if room > 0 else 0}"),
                (subject.reset, go_duration(-(-held // meter.rate))),
            )
        return found

    def anthropic(self, used: Sequence[int], at_s: float) -> list[tuple[str, str]]:
        """`anthropic-ratelimit-requests-limit` and so on, with the moment of the reset (RFC 3339)."""
        found = []
        for subject in self._subjects:
            at, meter, _ = subject.scarcest(used)
            name, reset_ms = subject.name, -(-used[at] // meter.rate)
            found.append((f"anthropic-ratelimit-{name}-limit", str(meter.limit)))
            found.append((f"anthropic-ratelimit-{name}-remaining", str(meter.left(used[at]))))
            found.append((f"anthropic-ratelimit-{name}-reset", _moment(at_s + reset_ms / 1000)))
        return found


class _Subject:
    """What one header speaks of, with as much of its text as is always the same: places in the plan, their meters, limits."""

    __slots__ = ("name", "only", "places", "remaining", "reset")

    def __init__(self, name: str, places: Sequence[tuple[int, Meter]]) -> None:
        self.name = name
        self.places = tuple((at, meter, (f"x-ratelimit-limit-{name}", str(meter.limit))) for at, meter in places)
        self.only = self.places[0] if len(self.places) == 1 else None
        self.remaining = f"x-ratelimit-remaining-{name}"
        self.reset = f"x-ratelimit-reset-{name}"

    def scarcest(self, used: Sequence[int]) -> tuple[int, Meter, tuple[str, str]]:
        """The place with the least left."""
        least, *others = self.places
        for each in others:
            if each[1].capacity - used[each[0]] < least[1].capacity - used[least[0]]:
                least = each
        return least


@functools.lru_cache(maxsize=4096)
def go_duration(span_ms: int) -> str:
    """A time as Go writes it, and OpenAI: 12ms, 1.5s, 6m0s, 1h0m0s."""
    if span_ms < 1000:
        return f"{span_ms}ms" if span_ms else "0s"
    seconds, rest_ms = divmod(span_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    text = f"{seconds}.{rest_ms:03d}".rstrip("0") + "s" if rest_ms else f"{seconds}s"
    if not minutes:
        return text
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}"


def _moment(at_s: float) -> str:
    """The second by which it is so, in UTC."""
    return f"{datetime.datetime.fromtimestamp(math.ceil(at_s), datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
