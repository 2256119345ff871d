"""Speaks to a server of OpenAI's APIs: those that it has itself are passed on, the others become its chat completions."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from servery.config.types import DeploymentConfig
from servery.upstream.ask import Api, Ask
from servery.upstream.failure import UpstreamFailure
from servery.upstream.openai.answer import OpenAIStream, read_answer
from servery.upstream.openai.errors import refused
from servery.upstream.openai.preset import PRESETS
from servery.upstream.openai.request import chat_request
from servery.upstream.provider import EVENTS, JSON, AnswerReader, Outgoing
from servery.upstream.relay.body import RelayedBody
from servery.upstream.relay.stream import RelayedStream, Watch
from servery.upstream.relay.watches import NO_USAGE, ChatWatch, MessagesWatch, ResponsesWatch
from servery.upstream.translatable import chat_of, continued_text, is_passed_on
from servery.upstream.translated import TranslatedBody, TranslatedStream
from servery.upstream.upstream import Call
from servery.wire.chat import ChatRequest
from servery.wire.errors import ApiError

_PATHS = {
    Api.CHAT: "/chat/completions",
    Api.COMPLETIONS: "/completions",
    Api.EMBEDDINGS: "/embeddings",
    Api.RERANK: "/rerank",
    Api.MESSAGES: "/messages",
    Api.RESPONSES: "/responses",
}
_OPTIONS = msgspec.json.Decoder(dict[str, Any])


class OpenAIProvider:
    """One deployment of any kind in `PRESETS`."""

    models_path = "/models"

    def __init__(self, config: DeploymentConfig) -> None:
        self._config = config
        self._preset = PRESETS[config.kind]
        key = config.api_key
        given = () if key is None else (("authorization", f"Bearer {key.reveal()}"),)
        self.constant_credentials: Sequence[tuple[str, str]] | None = given

    def outgoing(self, ask: Ask, call: Call) -> Outgoing:
        """The client's own body with another model in it, or a chat that asks for the same."""
        is_spoken = ask.api.word in self._config.apis and (ask.conversation is None or ask.is_relayable)
        if is_spoken and ask.api is Api.COMPLETIONS and call.continued is not None:
            return self._relayed(ask, **continued_text(ask, call))
        return self._relayed(ask) if is_spoken and is_passed_on(ask, call) else self._translated(ask, call)

    def counting(self, request: ChatRequest) -> tuple[str, bytes] | None:
        """Nobody counts there in a way that all have."""
        return None

    async def credentials(self, method: str, url: str, body: bytes) -> Sequence[tuple[str, str]]:
        """The key, if there is one."""
        return self.constant_credentials or ()

    def refused(self, status: int, headers: Mapping[str, str], body: bytes) -> ApiError | UpstreamFailure:
        """The exception for an answer with an error status."""
        return refused(status, headers, body, self._config.name)

    def _relayed(self, ask: Ask, **changed: Any) -> Outgoing:
        name, hides_usage = self._config.name, False
        values: dict[str, Any] = {"model": self._config.model, **changed}
        if ask.is_stream and ask.api in (Api.CHAT, Api.COMPLETIONS) and not ask.head.include_usage:
            hides_usage = True
            values["stream_options"] = {**_stream_options(ask), "include_usage": True}
        reader: AnswerReader = RelayedBody(name, ask.api, ask.model)
        if ask.is_stream:
            dropped = NO_USAGE if hides_usage else ()
            reader = RelayedStream(name, self._watch(ask, hides_usage=hides_usage), ask.model, dropped)
        return self._outgoing(ask.api, ask.rewritten(**values), reader, ask.is_stream, ask.pass_headers)

    def _watch(self, ask: Ask, *, hides_usage: bool) -> Watch:
        name = self._config.name
        if ask.api is Api.MESSAGES:
            return MessagesWatch(name)
        if ask.api is Api.RESPONSES:
            return ResponsesWatch(name)
        return ChatWatch(name, ask.head.n or 1, hides_usage=hides_usage)

    def _translated(self, ask: Ask, call: Call) -> Outgoing:
        name, request = self._config.name, chat_of(ask, call)
        body = chat_request(request, self._config.model, self._preset)
        form = call.form or ask.form()
        reader: AnswerReader = TranslatedBody(form, lambda body: read_answer(body, name))
        if ask.is_stream:
            reader = TranslatedStream(form, OpenAIStream(name, request.n or 1))
        return self._outgoing(Api.CHAT, body, reader, ask.is_stream)

    def _outgoing(
        self,
        api: Api,
        body: bytes,
        reader: AnswerReader,
        is_stream: bool,
        headers: Sequence[tuple[str, str]] = (),
    ) -> Outgoing:
        content_type = EVENTS if is_stream else JSON
        return Outgoing(path=_PATHS[api], body=body, reader=reader, headers=headers, content_type=content_type)


def _stream_options(ask: Ask) -> Mapping[str, Any]:
    """The client's own, beside which usage is asked for."""
    given = ask.fields.get("stream_options")
    return {} if given is None or bytes(given) == b"null" else _OPTIONS.decode(given)
