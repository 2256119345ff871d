"""What a request may take, before it is known what it takes. Pure."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from servery.gateway.admit.limits.meter import Cost, Measure, Plan
from servery.gateway.dispatch.prompt_size import count_prompts
from servery.upstream.ask import Api, Ask, Head
from servery.wire.errors import invalid
from servery.wire.tgi import DEFAULT_MAX_NEW_TOKENS

MOST_TOKENS = 10**9
# OpenAI's own bound of `n`.
MOST_COMPLETIONS = 128
_MILLION = 10**6
_NO_OUTPUT = (Api.EMBEDDINGS, Api.RERANK)
# Every name of the bound of an answer that some kind of server obeys, whatever API it was asked by: llama.cpp takes
# `n_predict` before all others.
_BOUNDS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens", "n_predict")
# Every name of the number of answers.
_COUNTS = ("n", "best_of", "n_cmpl")
# What each API itself calls the bound; TGI's has it deeper, and a default of its own.
_CAPS: Mapping[Api, str] = {
    Api.CHAT: "max_tokens",
    Api.COMPLETIONS: "max_tokens",
    Api.MESSAGES: "max_tokens",
    Api.RESPONSES: "max_output_tokens",
}


class Prices(NamedTuple):
    """The dearest that a request can come to, in micro-dollars per million tokens."""

    input: int
    output: int


def agreed_bound(head: Head) -> int | None:
    """The longest that each completion may become, as the client says, by whatever name; None where it says nothing.

    Raises `ApiError` (400) for two bounds that contradict each other.
    """
    agreed, agreed_name = None, ""
    for name, given in zip(_BOUNDS, _bounds(head), strict=True):
        if given is None:
            continue
        if agreed is not None and agreed != given:
            text = f"'{agreed_name}' is {agreed} and '{name}' {given}: they mean the same, so give only one of them."
            raise invalid(text, name)
        if agreed is None:
            agreed, agreed_name = given, name
    return agreed


def check_sizes(head: Head, agreed: int | None) -> None:
    """Raise `ApiError` (400) for numbers by which nothing can be reserved; `agreed` is the `agreed_bound`."""
    if agreed is not None and not 0 <= agreed <= MOST_TOKENS:
        name = next(name for name, given in zip(_BOUNDS, _bounds(head), strict=True) if given is not None)
        raise invalid(f"'{name}' is {agreed}; it must be from 0 to {MOST_TOKENS}.", name)
    for name, given in zip(_COUNTS, (head.n, head.best_of, head.n_cmpl), strict=True):
        if given is not None and not 1 <= given <= MOST_COMPLETIONS:
            raise invalid(f"'{name}' is {given}; it must be from 1 to {MOST_COMPLETIONS}.", name)


def _bounds(head: Head) -> tuple[int | None, ...]:
    """The values of `_BOUNDS`."""
    return (
        head.max_tokens, head.max_completion_tokens, head.max_output_tokens, head.max_new_tokens, head.n_predict,
    )  # fmt: skip


def completions_of(ask: Ask) -> int:
    """How many completions the request asks for, of all its prompts together."""
    if ask.api in _NO_OUTPUT:
        return 0
    head = ask.head
    each = max(head.n or 1, head.best_of or 1, head.n_cmpl or 1)
    return each * count_prompts(ask) if ask.api is Api.COMPLETIONS else each


def unasked_bound(
    ask: Ask, input_tokens: int, completions: int, plan: Plan, default_tokens: int, prices: Prices
) -> int:
    """The longest that each of `completions` may become where the client does not say: the most that the limits could hold.

    That is `default_tokens` at most (in TGI's API, 100), and 1 at least, so that a limit which cannot even hold that
    refuses. `input_tokens` are about those of the prompts.
    """
    if not completions:
        return 0
    most = min(default_tokens, DEFAULT_MAX_NEW_TOKENS) if ask.api is Api.GENERATE else default_tokens
    for meter in plan.meters:
        if meter.measure is Measure.OUTPUT_TOKENS:
            most = min(most, meter.left(0) // completions)
        elif meter.measure.is_budget and prices.output:
            left = meter.capacity * _MILLION - input_tokens * prices.input
            most = min(most, left // (prices.output * completions))
    return max(1, most)


def capped(ask: Ask, most_tokens: int, name: str | None = None) -> Ask:
    """The request with a bound of its answer that whoever answers obeys, unless it has it, or an answer has no length.

    `name` is what its place calls it. A bound by another name is sent on under this one too: not every server knows all.
    """
    if ask.api is Api.GENERATE:
        return _capped_text(ask, most_tokens)
    field, head = _CAPS.get(ask.api), ask.head
    if field is None:
        return ask
    field = name if name is not None and ask.api is Api.CHAT else field
    if getattr(head, field) is not None or (field != _CAPS[ask.api] and head.max_tokens is not None):
        return ask
    with_bound = msgspec.structs.replace(head, **{field: most_tokens})
    return ask.with_body(ask.rewritten(**{field: most_tokens}), with_bound)


def _capped_text(ask: Ask, most_tokens: int) -> Ask:
    if ask.head.most_tokens is not None:
        return ask
    given = msgspec.json.decode(ask.fields.get("parameters", b"{}"))
    body = ask.rewritten(parameters={**given, "max_new_tokens": most_tokens})
    return ask.with_body(body, msgspec.structs.replace(ask.head, max_tokens=most_tokens))


def cost_of(input_tokens: int, output_tokens: int, prices: Prices) -> Cost:
    """The most that a request takes whose answer has at most `output_tokens`, those of all its completions."""
    microusd = -(-(input_tokens * prices.input + output_tokens * prices.output) // _MILLION)
    return Cost(1, input_tokens, output_tokens, microusd)
