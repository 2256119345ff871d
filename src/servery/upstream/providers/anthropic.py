"""Speaks to Anthropic's Messages API: requests of that API are passed on, other chats are translated."""

from collections.abc import Mapping, Sequence

from servery.config.types import DeploymentConfig
from servery.upstream.anthropic.answer import AnthropicStream, read_answer
from servery.upstream.anthropic.errors import refused
from servery.upstream.anthropic.request import count_request, message_request
from servery.upstream.ask import Api, Ask
from servery.upstream.failure import UpstreamFailure
from servery.upstream.provider import EVENTS, JSON, AnswerReader, Outgoing
from servery.upstream.relay.body import RelayedBody
from servery.upstream.relay.stream import RelayedStream
from servery.upstream.relay.watches import MessagesWatch
from servery.upstream.translatable import chat_of, is_passed_on
from servery.upstream.translated import TranslatedBody, TranslatedStream
from servery.upstream.upstream import Call
from servery.wire.chat import ChatRequest
from servery.wire.errors import ApiError

_PATH = "/messages"
_VERSION = ("anthropic-version", "2023-06-01")


class AnthropicProvider:
    """One deployment of the kind `anthropic`."""

    models_path = "/models?limit=1000"

    def __init__(self, config: DeploymentConfig) -> None:
        self._config = config
        key = config.api_key
        given = (_VERSION,) if key is None else (_VERSION, ("x-api-key", key.reveal()))
        self.constant_credentials: Sequence[tuple[str, str]] | None = given

    def outgoing(self, ask: Ask, call: Call) -> Outgoing:
        """The client's own body with another model in it, or a message that asks for the same."""
        is_spoken = ask.api is Api.MESSAGES and is_passed_on(ask, call)
        return self._relayed(ask) if is_spoken else self._translated(ask, call)

    def counting(self, request: ChatRequest) -> tuple[str, bytes] | None:
        """Anthropic counts by itself."""
        return f"{_PATH}/count_tokens", count_request(request, self._config.model)

    async def credentials(self, method: str, url: str, body: bytes) -> Sequence[tuple[str, str]]:
        """The version of the API that is spoken here, and the key if there is one."""
        return self.constant_credentials or ()

    def refused(self, status: int, headers: Mapping[str, str], body: bytes) -> ApiError | UpstreamFailure:
        """The exception for an answer with an error status."""
        return refused(status, headers, body, self._config.name)

    def _relayed(self, ask: Ask) -> Outgoing:
        name, body = self._config.name, ask.rewritten(model=self._config.model)
        reader: AnswerReader = RelayedBody(name, ask.api, ask.model)
        if ask.is_stream:
            reader = RelayedStream(name, MessagesWatch(name), ask.model)
        return _outgoing(body, reader, ask, ask.pass_headers)

    def _translated(self, ask: Ask, call: Call) -> Outgoing:
        name, made = self._config.name, message_request(chat_of(ask, call), self._config.model)
        is_call, form = made.is_held_by_call, call.form or ask.form()
        reader: AnswerReader = TranslatedBody(form, lambda body: read_answer(body, name, is_held_by_call=is_call))
        if ask.is_stream:
            reader = TranslatedStream(form, AnthropicStream(name, is_held_by_call=is_call))
        return _outgoing(made.body, reader, ask, ())


def _outgoing(body: bytes, reader: AnswerReader, ask: Ask, headers: Sequence[tuple[str, str]]) -> Outgoing:
    content_type = EVENTS if ask.is_stream else JSON
    return Outgoing(path=_PATH, body=body, reader=reader, headers=headers, content_type=content_type)
