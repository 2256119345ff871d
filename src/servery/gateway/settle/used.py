"""How many tokens an attempt has used, which is what is paid for: as its deployment counted them, else as they are guessed."""

from collections.abc import Iterable

import msgspec

from servery.gateway.dispatch.attempt import RESUMED, Attempt
from servery.gateway.dispatch.prompt_size import input_tokens
from servery.gateway.exchange import Exchange
from servery.upstream.failure import Deadline, Kind

# What was never begun, or was refused with an error, is not on anybody's bill.
_FREE = (Kind.REFUSED, Kind.STATUS, Kind.THROTTLED, Kind.OVERLOADED)


class Used(msgspec.Struct, frozen=True, gc=False):
    """Tokens of a prompt, of these those that a cache supplied; those generated, of these those of reasoning.

    `is_estimated` if nobody told one of them.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    reasoning_tokens: int = 0
    is_estimated: bool = False


def used(attempt: Attempt) -> Used:
    """What one attempt has used.

    A deployment that told no count, because it does not or because the answer was cut short, has its prompt guessed by
    its size and its answer counted by pieces; engines of this process count every token as it comes, and tell of the
    prompt with the first.
    """
    usage = attempt.usage
    if usage is not None:
        told = usage.completion_tokens
        # A count in the middle of an answer that was cut short is behind what came after it.
        is_behind = attempt.tokens > told and attempt.result != "ok"
        return Used(
            usage.prompt_tokens,
            usage.prompt_tokens_details.cached_tokens,
            attempt.tokens if is_behind else told,
            usage.completion_tokens_details.reasoning_tokens,
            attempt.is_estimated or is_behind,
        )
    if attempt.deployment.is_own and (attempt.prompt_tokens or not attempt.is_abandoned):
        return Used(attempt.prompt_tokens, attempt.cached_tokens, attempt.tokens, 0, attempt.is_estimated)
    if _is_free(attempt):
        return Used()
    prompt = attempt.prompt_tokens or input_tokens(attempt.ask)
    return Used(prompt, attempt.cached_tokens, attempt.tokens, 0, is_estimated=True)


def answered(exchange: Exchange, last: Used) -> Used:
    """What the answer that the client has comes to, of an exchange whose last attempt has used `last`.

    That is the same, unless the answer is in parts: then it has one prompt, and all that was generated.
    """
    if exchange.attempts[-1].why != RESUMED:
        return last
    record = exchange.record
    reasoning = 0 if record.usage is None else record.usage.completion_tokens_details.reasoning_tokens
    return Used(record.prompt_tokens, record.cached_tokens, record.generated_tokens, reasoning, last.is_estimated)


def total(parts: Iterable[Used]) -> Used:
    """All of them together."""
    prompt = cached = generated = reasoning = 0
    is_estimated = False
    for part in parts:
        prompt += part.prompt_tokens
        cached += part.cached_tokens
        generated += part.generated_tokens
        reasoning += part.reasoning_tokens
        is_estimated = is_estimated or part.is_estimated
    return Used(prompt, cached, generated, reasoning, is_estimated)


def _is_free(attempt: Attempt) -> bool:
    failure = attempt.failure
    if attempt.tokens:
        return False
    if failure is None:
        return attempt.refusal is not None
    return failure.kind in _FREE or failure.deadline is Deadline.CONNECT
