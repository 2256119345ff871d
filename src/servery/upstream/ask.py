"""What a client asks of a model: its bytes as they came, the little that everybody reads of them, all of it on demand.

An upstream that speaks the client's API sends the bytes on; one that does not has them decoded, and writes the answer in
the client's form. So every API reaches every kind of upstream, and nobody decodes what nobody needs.
"""

import enum
import os
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Protocol, TypeAlias

import msgspec

from servery.upstream.caller import ANYBODY, Caller
from servery.wire.anthropic import decode_anthropic
from servery.wire.anthropic_answer import AnthropicForm
from servery.wire.body import decode
from servery.wire.chat import ChatRequest, decode_chat
from servery.wire.chat_answer import ChatForm
from servery.wire.completion_answer import CompletionForm
from servery.wire.completions import CompletionRequest, decode_completion
from servery.wire.embeddings import EmbeddingRequest, decode_embedding
from servery.wire.errors import invalid
from servery.wire.message import AnswerForm
from servery.wire.rerank import RerankRequest, decode_rerank
from servery.wire.responses import ResponsesRequest, decode_responses
from servery.wire.responses_answer import ResponsesForm
from servery.wire.responses_items import Item
from servery.wire.tgi import GenerateRequest, decode_generate

ModelRequest: TypeAlias = ChatRequest | CompletionRequest | EmbeddingRequest | RerankRequest

# What goes on to an upstream that speaks the client's API, of all the headers that the client sent.
PASSED_HEADERS = (
    "anthropic-beta",
    "anthropic-version",
    "openai-beta",
)


class Api(enum.Enum):
    """An API by which a model can be asked; the values name them in configurations and records."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RERANK = "rerank"
    MESSAGES = "messages"
    RESPONSES = "responses"
    GENERATE = "generate"

    def __init__(self, word: str) -> None:
        """`word` is the value, which to ask an enumeration's member for takes two functions of Python's."""
        self.word = word

    # Members are what they are: the hash of an enumeration's own is a function of Python's, asked with every request.
    __hash__ = object.__hash__

    @property
    def is_chat(self) -> bool:
        """Whether the answer is a message, which any upstream that can chat is able to write."""
        return self in (Api.CHAT, Api.MESSAGES, Api.RESPONSES)


_ID_PREFIXES: Mapping[Api, str] = {
    Api.CHAT: "chatcmpl-",
    Api.COMPLETIONS: "cmpl-",
    Api.EMBEDDINGS: "embd-",
    Api.RERANK: "rerank-",
    Api.MESSAGES: "msg_",
    Api.RESPONSES: "resp_",
    Api.GENERATE: "gen-",
}


_chance = random.Random(secrets.randbits(256))
# Processes that are forks of one must not go on alike: their ids would be the same.
os.register_at_fork(after_in_child=lambda: _chance.seed(secrets.randbits(256)))


def new_answer_id(api: Api) -> str:
    """An id that no other answer has, of the form that the API's own have.

    One that a later request may name is a secret of those who were told it; the others need only be different.
    """
    if api is Api.RESPONSES:
        return _ID_PREFIXES[api] + secrets.token_hex(16)
    return f"{_ID_PREFIXES[api]}{_chance.getrandbits(128):032x}"


class _StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a request that steer it; all APIs' names for them, None where not given."""

    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    max_new_tokens: int | None = None
    n_predict: int | None = None
    n: int | None = None
    n_cmpl: int | None = None
    best_of: int | None = None
    temperature: float | None = None
    seed: int | None = None
    user: str | None = None
    prompt_cache_key: str | None = None
    previous_response_id: str | None = None
    request_id: str | None = None
    include_reasoning: bool | None = None

    @property
    def include_usage(self) -> bool:
        """Whether the client wants the usage at the end of its stream."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def most_tokens(self) -> int | None:
        """The most tokens that each completion may have."""
        for limit in (
            self.max_completion_tokens, self.max_tokens, self.max_output_tokens, self.max_new_tokens, self.n_predict,
        ):  # fmt: skip
            if limit is not None:
                return limit
        return None

    @property
    def is_repeatable(self) -> bool:
        """Whether the same model answers twice with the same words: it is greedy, or its seed is given."""
        return self.temperature == 0 or self.seed is not None


_HEAD = msgspec.json.Decoder(Head)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_head(body: bytes) -> Head:
    """The head of a request, without a look at the rest; raises `ApiError` (400) that says what is wrong and where."""
    try:
        head = _HEAD.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return decode(body, _HEAD)  # slower, and tells why
    if not body.isascii():
        _check_utf_8(body)
    return head


def _check_utf_8(body: bytes) -> None:
    """What the head's decoder passes over it does not look at, and a key that is no UTF-8 fails whoever reads it later."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        message = f"The request body is not valid JSON: byte {error.start + 1} is not UTF-8."
        raise invalid(message, code="invalid_json") from None


class Conversation(Protocol):
    """What a Responses request goes on with, and where its answer is kept for others to go on with."""

    @property
    def is_known(self) -> bool:
        """Whether the request goes on with a response that is kept here; one kept elsewhere is not."""
        ...

    def history(self) -> Sequence[Item]:
        """All that was said before, nothing if the request begins anew; raises `ApiError` (404) if it is not known."""
        ...

    def keep(self, request: ResponsesRequest, response: dict[str, Any], said: list[Item]) -> None:
        """Take the finished response, and what it adds to the conversation."""


class Ask(msgspec.Struct, frozen=True, kw_only=True, eq=False, dict=True, weakref=True):
    """One request for an answer of the model `base`, or of its adapter if `model` is `base:adapter`.

    `model` is the name that the answer shows. `created` is Unix time; `priority` the engine's, lower numbers first;
    `owner` is the tenant's digest, `caller` who it is. `pass_headers` are those of `PASSED_HEADERS` that the client sent.
    `conversation` comes with requests of the Responses API; `as_list` wraps a whole answer of TGI's, as its `/` does.
    `is_stream` follows from the head and the API: whether the answer is wanted piece by piece.
    """

    api: Api
    body: bytes
    head: Head
    model: str
    base: str
    answer_id: str
    created: int
    pass_headers: Sequence[tuple[str, str]] = ()
    priority: int = 0
    owner: bytes = b""
    caller: Caller = ANYBODY
    conversation: Conversation | None = None
    as_list: bool = False
    is_stream: bool = False

    def __post_init__(self) -> None:
        is_stream = bool(self.head.stream) and self.api not in (Api.EMBEDDINGS, Api.RERANK)
        if is_stream is not self.is_stream:
            msgspec.structs.force_setattr(self, "is_stream", is_stream)

    @property
    def adapter(self) -> str | None:
        """The adapter's own name; None for the model itself."""
        return None if self.model == self.base else self.model.removeprefix(f"{self.base}:")

    @property
    def shown_id(self) -> str:
        """The answer's id as the client reads it: with its own `request_id` in it, as vLLM has it, if it gave one.

        Others may give the same, so nothing else goes by it.
        """
        asked = self.head.request_id
        named = asked is not None and self.api in (Api.CHAT, Api.COMPLETIONS)
        return f"{_ID_PREFIXES[self.api]}{asked}" if named else self.answer_id

    @property
    def is_relayable(self) -> bool:
        """Whether an upstream that speaks `api` can be sent the body: what was said before is in it, or known there."""
        return self.conversation is None or not self.conversation.is_known

    @property
    def fields(self) -> Mapping[str, msgspec.Raw]:
        """The body's fields with their values as the client wrote them; of a key that occurs twice the last counts."""
        found: Mapping[str, msgspec.Raw] | None = self.__dict__.get("fields")
        if found is None:
            found = self.__dict__["fields"] = _FIELDS.decode(self.body)
        return found

    def rewritten(self, **values: Any) -> bytes:
        """The body with these fields instead of its own, `UNSET` for none; all others are as the client wrote them."""
        fields: dict[str, Any] = {**self.fields, **values}
        for name, value in values.items():
            if value is msgspec.UNSET:
                del fields[name]
        return msgspec.json.encode(fields)

    def with_body(self, body: bytes, head: Head) -> "Ask":
        """The same request with another body, whose head this is."""
        return msgspec.structs.replace(self, body=body, head=head)

    def typed(self) -> ModelRequest:
        """The checked request, for `model`; raises `ApiError` for whatever is wrong with it or not understood."""
        return self._typed

    def form(self) -> AnswerForm:
        """A new writer of the answer in the client's form; raises `ValueError` for an API whose answer is no message."""
        if self.api is Api.CHAT:
            usage = self.head.include_usage
            shows = self.head.include_reasoning is not False
            return ChatForm(self.shown_id, self.created, self.model, include_usage=usage, shows_reasoning=shows)
        if self.api is Api.COMPLETIONS:
            usage = self.head.include_usage
            return CompletionForm(self.shown_id, self.created, self.model, include_usage=usage)
        if self.api is Api.MESSAGES:
            return AnthropicForm(self.answer_id, self.model, self.head.max_tokens or 0)
        if self.api is Api.RESPONSES:
            return self._responses_form()
        raise ValueError(f"the answer of {self.api.value} is no message")

    @cached_property
    def _typed(self) -> ModelRequest:
        if self.api is Api.RESPONSES:
            history = () if self.conversation is None else self.conversation.history()
            return self._responses.chat(list(history))
        if self.api is Api.MESSAGES:
            return msgspec.structs.replace(decode_anthropic(self.body), model=self.model).chat()
        if self.api is Api.GENERATE:
            return self.generate.completion(self.model)
        request = _DECODERS[self.api](self.body)
        return request if request.model == self.model else msgspec.structs.replace(request, model=self.model)

    @cached_property
    def generate(self) -> GenerateRequest:
        """The checked request of TGI's API; raises `ApiError`."""
        return msgspec.structs.replace(decode_generate(self.body), stream=self.head.stream)

    @cached_property
    def _responses(self) -> ResponsesRequest:
        return msgspec.structs.replace(decode_responses(self.body), model=self.model)

    def _responses_form(self) -> ResponsesForm:
        request, conversation = self._responses, self.conversation
        keep = partial(conversation.keep, request) if conversation is not None and request.is_stored else None
        return ResponsesForm(self.answer_id, self.created, request, keep)


_DECODERS: Mapping[Api, Callable[[bytes], ModelRequest]] = {
    Api.CHAT: decode_chat,
    Api.COMPLETIONS: decode_completion,
    Api.EMBEDDINGS: decode_embedding,
    Api.RERANK: decode_rerank,
}
