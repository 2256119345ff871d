"""What an attempt costs. Pure; micro-dollars."""

from servery.config.types import Price

_MILLION = 10**6


def cost_microusd(price: Price, prompt_tokens: int, cached_tokens: int, generated_tokens: int) -> int:
    """By its tokens, rounded to the nearest, halves up; capacity that is paid for by the hour costs nothing more."""
    total = (
        max(0, prompt_tokens - cached_tokens) * price.input_per_mtok
        + cached_tokens * price.cached_per_mtok
        + generated_tokens * price.output_per_mtok
    )
    return (total + _MILLION // 2) // _MILLION
