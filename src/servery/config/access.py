"""Keys and limits, from their sections and from JSON to what they mean. Each `ValueError` says what to write instead."""

import datetime
import re
from typing import Any

import msgspec

from servery.config.sections import LimitsSection
from servery.config.types import Limits, Tier
from servery.config.units import parse_dollars, parse_duration

_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_MICRO = 10**6
_BURST_S = (1.0, 3600.0)


def parse_digest(given: str) -> bytes:
    """The SHA-256 of a key, from hex."""
    if _DIGEST.fullmatch(given) is None:
        raise ValueError('this is no SHA-256: write the 64 hex digits that `printf %s "$KEY" | sha256sum` prints')
    return bytes.fromhex(given)


def parse_time(given: object) -> float:
    """Unix time of a day or a moment in UTC; a day's is its beginning."""
    try:
        moment = datetime.datetime.fromisoformat(str(given))
    except ValueError:
        raise ValueError(f"{given!r} is no day; write 2027-01-31, or 2027-01-31T12:00:00Z") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


def parse_burst(given: object) -> float:
    """Seconds for which rates save up what is not used."""
    burst_s = parse_duration(given)
    if not _BURST_S[0] <= burst_s <= _BURST_S[1]:
        raise ValueError(f"{given!r} is no burst; it must be from 1s to 1h")
    return burst_s


def limits_of(section: LimitsSection) -> Limits:
    """The limits that a section says."""

    def money(given: Any) -> int | None:
        return None if given is None else parse_dollars(given)

    return Limits(
        requests_per_minute=section.requests_per_minute,
        input_tokens_per_minute=section.input_tokens_per_minute,
        output_tokens_per_minute=section.output_tokens_per_minute,
        concurrency=section.concurrency,
        microusd_per_day=money(section.dollars_per_day),
        microusd_per_month=money(section.dollars_per_month),
        burst_s=parse_burst(section.burst),
    )


def limits_shown(limits: Limits) -> dict[str, Any]:
    """Limits as their section would say them, without those that are none."""
    given: dict[str, Any] = {
        "requests_per_minute": limits.requests_per_minute,
        "input_tokens_per_minute": limits.input_tokens_per_minute,
        "output_tokens_per_minute": limits.output_tokens_per_minute,
        "concurrency": limits.concurrency,
        "dollars_per_day": _dollars(limits.microusd_per_day),
        "dollars_per_month": _dollars(limits.microusd_per_month),
        "burst": None if limits.burst_s == Limits().burst_s else f"{limits.burst_s:g}s",
    }
    return {name: value for name, value in given.items() if value is not None}


def limits_in(shown: dict[str, Any]) -> Limits:
    """The limits that `limits_shown` wrote, or a client; raises `ValueError`."""
    try:
        return limits_of(msgspec.convert(shown, LimitsSection))
    except msgspec.ValidationError as error:
        raise ValueError(str(error).replace("`", "'")) from None


def tiers_in(names: list[str]) -> frozenset[Tier]:
    """Tiers by their names; raises `ValueError` naming those that there are."""
    known = [tier.value for tier in Tier]
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is no tier; choose of {', '.join(known)}")
    return frozenset(Tier(name) for name in names)


def _dollars(microusd: int | None) -> str | None:
    """As text: an amount of dollars is exact in decimals, and not in binary."""
    if microusd is None:
        return None
    whole, part = divmod(microusd, _MICRO)
    return f"{whole}.{part:06d}".rstrip("0").rstrip(".")
