"""What tokens cost. Pure; exact integers.

A price is micro-dollars per million tokens, which is pico-dollars per token: sums of these are exact. An exchange is
rounded once, to nano-dollars: a micro-dollar would make ten tokens at $0.02 per million cost nothing at all.
"""

from servery.config.types import Price

_PICO_IN_NANO = 10**3
_PICO_IN_MICRO = 10**6


def cost_picousd(price: Price, prompt_tokens: int, cached_tokens: int, generated_tokens: int) -> int:
    """Exactly, by the price per token; capacity that is paid for by the hour costs nothing more."""
    return (
        (prompt_tokens - cached_tokens if prompt_tokens > cached_tokens else 0) * price.input_per_mtok
        + cached_tokens * price.cached_per_mtok
        + generated_tokens * price.output_per_mtok
    )


def nanousd(picousd: int) -> int:
    """To the nearest, halves up."""
    return (picousd + _PICO_IN_NANO // 2) // _PICO_IN_NANO


def cost_microusd(price: Price, prompt_tokens: int, cached_tokens: int, generated_tokens: int) -> int:
    """To the nearest micro-dollar, halves up: good enough to compare places."""
    total = cost_picousd(price, prompt_tokens, cached_tokens, generated_tokens)
    return (total + _PICO_IN_MICRO // 2) // _PICO_IN_MICRO
