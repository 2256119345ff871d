"""Which answers another deployment can go on with, by what was asked. Pure.

One that repeats itself is compared with what the client has, so it may be any answer that is told as words and calls. One
that goes on behind what was said begins anew in all but the words: it has no second completion, no form that it is held to
from its first letter, and nothing that counts its tokens.
"""

from servery.upstream.ask import Api, Ask

# What holds an answer to a form from its first letter on.
_FORMS = frozenset(
    (
        "structured_outputs",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
        "output_config",
        "min_tokens",
    )
)
_NOTHING = (b"null", b"false")


def can_be_repeated(ask: Ask) -> bool:
    """Whether a second answer to the same can be compared with the first one."""
    if ask.api is Api.COMPLETIONS:
        return not _has(ask, "best_of")
    if ask.api is Api.RESPONSES and ask.head.previous_response_id is not None and ask.is_relayable:
        return False  # what was said before is known only where the answer broke off
    return ask.api.is_chat


def can_be_continued(ask: Ask) -> bool:
    """Whether somebody can go on behind the words that were said, and be given no more than these."""
    if (ask.head.n or 1) > 1 or has_logprobs(ask) or any(_has(ask, name) for name in _FORMS):
        return False
    if ask.api is Api.COMPLETIONS:
        is_one_text = bytes(ask.fields.get("prompt", b"null")).startswith(b'"')
        return is_one_text and not _has(ask, "echo") and not _has(ask, "suffix")
    # Chat completions have `response_format`, responses `text.format`; both may ask for text, which is no form.
    return not any(word in _given(ask, name) for name in ("response_format", "text") for word in (b"json", b"regex"))


def has_logprobs(ask: Ask) -> bool:
    """Whether log probabilities were asked for."""
    return _has(ask, "logprobs")


def _has(ask: Ask, name: str) -> bool:
    return _given(ask, name) not in _NOTHING


def _given(ask: Ask, name: str) -> bytes:
    return bytes(ask.fields.get(name, b"null"))
