"""`POST /tokenize` and `POST /detokenize`, in the form that vLLM gave them."""

from typing import Any

import msgspec

from servery.wire.body import decode
from servery.wire.chat import Message, check_messages, check_template_variables
from servery.wire.errors import invalid
from servery.wire.tools import Tool


class TokenizeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A text, or a chat to be rendered first, to be cut into tokens.

    `add_special_tokens` adds the tokens that the tokenizer puts around a text; a rendered chat has its own already.
    """

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[Tool] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None

    def check(self) -> None:
        """Raise `ApiError` for what no type can express."""
        if (self.prompt is None) == (self.messages is None):
            raise invalid("Give exactly one of 'prompt' and 'messages'.", "prompt")
        if self.messages is not None:
            check_messages(self.messages)
        for param in ("tools", "add_generation_prompt", "chat_template_kwargs"):
            if self.messages is None and getattr(self, param) is not None:
                raise invalid(f"'{param}' needs 'messages'; a 'prompt' is not rendered by the chat template.", param)
        check_template_variables(self.chat_template_kwargs)


class DetokenizeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tokens to be turned into text."""

    model: str | None = None
    tokens: list[int]


class _Tokens(msgspec.Struct, frozen=True):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class _Text(msgspec.Struct, frozen=True):
    prompt: str


_TOKENIZE = msgspec.json.Decoder(TokenizeRequest)
_DETOKENIZE = msgspec.json.Decoder(DetokenizeRequest)


def decode_tokenize(body: bytes) -> TokenizeRequest:
    """A checked request; raises `ApiError`."""
    request = decode(body, _TOKENIZE)
    request.check()
    return request


def decode_detokenize(body: bytes) -> DetokenizeRequest:
    """A checked request; raises `ApiError`."""
    return decode(body, _DETOKENIZE)


def encode_tokens(tokens: list[int], max_model_len: int, token_strs: list[str] | None) -> bytes:
    """The body of the answer to `/tokenize`."""
    return msgspec.json.encode(_Tokens(len(tokens), max_model_len, tokens, token_strs))


def encode_text(text: str) -> bytes:
    """The body of the answer to `/detokenize`."""
    return msgspec.json.encode(_Text(text))
