"""What vLLM's clients may say beyond OpenAI's parameters: some of it is done, the rest only taken where it asks for nothing."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from servery.wire.errors import invalid, shown, unsupported

_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_MAX_SALT_CHARS = 1_000

# By parameter: the values that ask for nothing (None always does), and why others are refused.
_NEUTRAL: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "priority": ((0,), "clients do not say who goes first; only 0 is taken."),
    "bad_words": (([],), "words cannot be forbidden; 'logit_bias' of -100 forbids a token."),
    "prompt_logprobs": ((), "a completion with 'echo' and 'logprobs' has those of its prompt."),
    "truncate_prompt_tokens": ((), "a prompt is never cut; one that is too long is refused."),
    "use_beam_search": ((False,), "there is no beam search; ask for more by 'n' and choose from them."),
    "length_penalty": ((1,), "it belongs to beam search, which there is not; only 1 is taken."),
    "early_stopping": ((False,), "it belongs to beam search, which there is not."),
    "return_tokens_as_token_ids": ((False,), "log probabilities name tokens by their text."),
    "return_token_ids": ((False,), "answers are text; '/tokenize' gives the tokens of a text."),
    "logits_processors": (([],), "code of the client's is not run."),
    "kv_transfer_params": (({},), "keys and values are not handed over between servers."),
    "vllm_xargs": (({},), "they are vLLM's own."),
    "guided_decoding_backend": (("auto",), "there is one; only 'auto' is taken."),
    "guided_whitespace_pattern": ((), "give the whole answer's form as 'guided_regex'."),
}
CHAT_NEUTRAL: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "documents": (([],), "give them to the model in a message instead."),
    "mm_processor_kwargs": (({},), "this model takes text only."),
    "chat_template": ((), "templates come with the model; '/v1/completions' takes a prompt of any form."),
    "echo": ((False,), "a chat's prompt is not repeated; '/v1/completions' has it."),
    "best_of": ((1,), "ask for more by 'n' and choose from them."),
}


class VllmFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters that vLLM adds to chats and completions alike.

    Done: `min_tokens`, before which nothing but the limit ends an answer; `include_stop_str_in_output`;
    `skip_special_tokens` (default true); `allowed_token_ids`, all that can be chosen; `request_id`, which the answer's id
    ends with; `cache_salt`, which keeps the prompt's cache to those who know it. `spaces_between_special_tokens` says
    nothing to the tokenizers that there are, as with vLLM. The others are taken where they ask for nothing.
    """

    min_tokens: int | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    allowed_token_ids: list[int] | None = None
    request_id: str | None = None
    cache_salt: str | None = None
    priority: int | None = None
    bad_words: list[str] | None = None
    prompt_logprobs: int | None = None
    truncate_prompt_tokens: int | None = None
    use_beam_search: bool | None = None
    length_penalty: float | None = None
    early_stopping: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    return_token_ids: bool | None = None
    logits_processors: Any = None
    kv_transfer_params: dict[str, Any] | None = None
    vllm_xargs: dict[str, Any] | None = None
    guided_decoding_backend: str | None = None
    guided_whitespace_pattern: str | None = None

    @property
    def skips_special_tokens(self) -> bool:
        """Whether special tokens have no text."""
        return self.skip_special_tokens is not False

    @property
    def salt(self) -> bytes:
        """What only those who give it share the prompt's cache with; empty: everybody."""
        return (self.cache_salt or "").encode()

    def check(self) -> None:
        """Raise `ApiError` for what no type can express and for what this server cannot do."""
        check_neutral(self, _NEUTRAL)
        if self.allowed_token_ids == []:
            raise invalid("'allowed_token_ids' is empty; give at least one, or leave it out.", "allowed_token_ids")
        if self.request_id is not None and not _SANE_ID.fullmatch(self.request_id):
            rule = "it must have 1 to 128 letters, digits and characters of ._:/+=@-"
            raise invalid(f"'request_id' is '{shown(self.request_id)}'; {rule}.", "request_id")
        if self.cache_salt is not None and not 1 <= len(self.cache_salt) <= _MAX_SALT_CHARS:
            given = f"'cache_salt' has {len(self.cache_salt)} characters"
            raise invalid(f"{given}; it must have 1 to {_MAX_SALT_CHARS}.", "cache_salt")


def check_neutral(request: msgspec.Struct, rules: Mapping[str, tuple[tuple[Any, ...], str]]) -> None:
    """Raise `ApiError` for the first parameter of `rules` that asks for something that there is not."""
    for name, (neutral, why) in rules.items():
        value = getattr(request, name)
        if value is not None and value not in neutral:
            raise unsupported(name, why)


def encode_version(version: str) -> bytes:
    """The body of the answer to `/version`."""
    return msgspec.json.encode({"version": version})
