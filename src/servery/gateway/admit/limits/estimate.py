"""What a request may take, before it is known what it takes. Pure."""

import re
from collections.abc import Mapping

import msgspec

from servery.gateway.admit.limits.meter import Cost
from servery.gateway.dispatch.prefixes import prompt_tokens
from servery.upstream.ask import Api, Ask, Head
from servery.wire.errors import invalid

MOST_TOKENS = 10**9
# OpenAI's own bound of `n`.
MOST_COMPLETIONS = 128
# Images and files come as base64, of which a model makes far fewer tokens than of as much text.
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{1024,}")
_TOKENS_OF_MEDIA = 1_024
_BYTES_PER_TOKEN = 4
_MILLION = 10**6
_NO_OUTPUT = (Api.EMBEDDINGS, Api.RERANK)
# Where each API has the most tokens of an answer; TGI's has them deeper, and a default of its own.
_CAPS: Mapping[Api, str] = {
    Api.CHAT: "max_tokens",
    Api.COMPLETIONS: "max_tokens",
    Api.MESSAGES: "max_tokens",
    Api.RESPONSES: "max_output_tokens",
}


def check_conflict(head: Head) -> None:
    """Raise `ApiError` (400) for two bounds of the answer that contradict each other."""
    least, most = head.max_tokens, head.max_completion_tokens
    if least is not None and most is not None and least != most:
        text = (
            f"'max_tokens' is {least} and 'max_completion_tokens' {most}: they mean the same, so give only one of them."
        )
        raise invalid(text, "max_completion_tokens")


def check_bounds(head: Head) -> None:
    """Raise `ApiError` (400) for numbers by which nothing can be reserved."""
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        given = getattr(head, name)
        if given is not None and not 0 <= given <= MOST_TOKENS:
            raise invalid(f"'{name}' is {given}; it must be from 0 to {MOST_TOKENS}.", name)
    for name in ("n", "best_of"):
        given = getattr(head, name)
        if given is not None and not 1 <= given <= MOST_COMPLETIONS:
            raise invalid(f"'{name}' is {given}; it must be from 1 to {MOST_COMPLETIONS}.", name)


def capped(ask: Ask, most_tokens: int, name: str | None = None) -> Ask:
    """The request with a bound of its answer, if it may have one and has none; `name` is what its place calls it."""
    field = _CAPS.get(ask.api)
    if field is None or ask.head.most_tokens is not None:
        return ask
    field = name if name is not None and ask.api is Api.CHAT else field
    head = msgspec.structs.replace(ask.head, **{field: most_tokens})
    return ask.with_body(ask.rewritten(**{field: most_tokens}), head)


def cost_of(ask: Ask, default_tokens: int, input_price: int, output_price: int) -> Cost:
    """The most that a request takes, its prompt estimated; prices are micro-dollars per million tokens."""
    head = ask.head
    input_tokens = input_of(ask)
    output_tokens = 0
    if ask.api not in _NO_OUTPUT:
        cap = head.most_tokens
        completions = max(head.n or 1, head.best_of or 1)
        output_tokens = completions * (default_tokens if cap is None else cap)
    microusd = -(-(input_tokens * input_price + output_tokens * output_price) // _MILLION)
    return Cost(1, input_tokens, output_tokens, microusd)


def input_of(ask: Ask) -> int:
    """About how many tokens the prompt has, each completion's prompt counted once as providers do."""
    body = ask.body
    if len(body) < _TOKENS_OF_MEDIA or b"base64" not in body:
        return prompt_tokens(ask.fields)
    spans = [match.end() - match.start() for match in _BASE64.finditer(body)]
    media = sum(max(0, span // _BYTES_PER_TOKEN - _TOKENS_OF_MEDIA) for span in spans)
    return max(1, prompt_tokens(ask.fields) - media)
