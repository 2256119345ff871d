"""How long to wait before a retry. Pure."""

from servery.config.types import Retry


def full_jitter_s(retry: Retry, number: int, random: float) -> float:
    """The wait before retry `number` (from 0), anywhere up to the exponential bound; `random` is in [0, 1).

    Full jitter (Brooker, "Exponential Backoff And Jitter", 2015): of the ways to spread retries it makes the least load.
    """
    return random * min(retry.max_s, retry.base_s * 2.0 ** min(number, 30))
