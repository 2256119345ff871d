"""An answer that is not streamed and whose API the client speaks itself: only the model's name is changed."""

import functools
from collections.abc import Mapping

import msgspec

from servery.upstream.anthropic.answer import AnthropicUsage
from servery.upstream.anthropic.answer import finish_reason as anthropic_finish_reason
from servery.upstream.anthropic.errors import event_error as anthropic_error
from servery.upstream.ask import Api
from servery.upstream.openai.answer import Choice, OpenAIUsage, is_declined
from servery.upstream.openai.errors import event_error as openai_error
from servery.upstream.refusal import malformed
from servery.upstream.relay.watches import Response, ResponsesUsage
from servery.upstream.upstream import Chunk
from servery.wire.usage import Usage

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NULL = msgspec.Raw(b"null")
_KEY = b'"model"'
_MODEL = b'"model":'
_NEEDED: Mapping[Api, str] = {
    Api.CHAT: "choices",
    Api.COMPLETIONS: "choices",
    Api.EMBEDDINGS: "data",
    Api.RERANK: "results",
    Api.MESSAGES: "content",
    Api.RESPONSES: "output",
}


class _Choices(msgspec.Struct, frozen=True):
    """All that is read of a chat's or a completion's whole answer."""

    choices: list[Choice]
    model: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    usage: OpenAIUsage | None = None


_CHOICES = msgspec.json.Decoder(_Choices)
_CHOSEN = (Api.CHAT, Api.COMPLETIONS)


class _Ended(msgspec.Struct, frozen=True):
    stop_reason: str | None = None


class RelayedBody:
    """Passes on one answer to a client who calls the model `model`."""

    def __init__(self, deployment: str, api: Api, model: str) -> None:
        self._deployment = deployment
        self._api = api
        self._model = model
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> list[Chunk]:
        """Nothing yet: an answer may be an error until its end."""
        self._pieces.append(data)
        return []

    def end(self) -> list[Chunk]:
        """The answer. Raises `ApiError` and `UpstreamFailure` for an error, and for what is no answer."""
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        if self._api in _CHOSEN and (told := self._chosen(body)) is not None:
            return told
        try:
            fields = _FIELDS.decode(body)
            self._check(fields)
            usage, (reasons, is_refusal) = _usage(self._api, fields), _ends(self._api, body)
        except msgspec.DecodeError as error:
            raise malformed(self._deployment, f"an answer that cannot be read: {error}") from error
        ends = [Chunk(index=index, finish_reason=reason) for index, reason in reasons]
        return [*ends, Chunk(data=self._named(body, fields), usage=usage, is_refusal=is_refusal)]

    def _chosen(self, body: bytes) -> list[Chunk] | None:
        """The answer, of a body that is one and has its model's name once; None for any other."""
        try:
            found = _CHOICES.decode(body)
        except msgspec.DecodeError:
            return None
        named = None if found.model is msgspec.UNSET else _renamed(body, bytes(found.model), self._model)
        if named is None:
            return None
        choices, usage = found.choices, found.usage
        counted = None if usage is None else usage.usage()
        if len(choices) == 1:
            [one] = choices
            reason = one.finish_reason or "stop"
            is_refusal = (reason == "content_filter" or one.message.refusal is not None) and is_declined(one)
            return [Chunk(data=named, index=one.index, finish_reason=reason, usage=counted, is_refusal=is_refusal)]
        told = Chunk(data=named, usage=counted, is_refusal=bool(choices) and all(map(is_declined, choices)))
        ends = [Chunk(index=choice.index, finish_reason=choice.finish_reason or "stop") for choice in choices]
        return [*ends, told]

    def _check(self, fields: Mapping[str, msgspec.Raw]) -> None:
        error, needed = fields.get("error", _NULL), _NEEDED[self._api]
        if bytes(error) != b"null" and (needed not in fields or self._api is Api.RESPONSES):
            if self._api is Api.MESSAGES:
                raise anthropic_error(error, self._deployment)
            raise openai_error(msgspec.json.decode(error), self._deployment)
        if needed not in fields:
            raise malformed(self._deployment, f"an answer without '{needed}'")

    def _named(self, body: bytes, fields: Mapping[str, msgspec.Raw]) -> bytes:
        shown = msgspec.json.encode(self._model)
        if "model" not in fields or bytes(fields["model"]) == shown:
            return body
        return msgspec.json.encode({**fields, "model": self._model})


def _renamed(body: bytes, name: bytes, model: str) -> bytes | None:
    """The body with another name for its `name` of the model, both as JSON; None if it is not known where that stands.

    A key in an object is the only thing that stands so: in a text its quotation marks have a backslash before them.
    """
    at = body.find(_MODEL)
    if at < 1 or body[at - 1] not in b"{, \n" or body.count(_KEY) != 1:
        return None
    begin = at + len(_MODEL)
    begin += body.startswith(b" ", begin)
    shown = _encoded(model)
    if not body.startswith(name, begin):
        return None
    return body if name == shown else b"%b%b%b" % (body[:begin], shown, body[begin + len(name) :])


@functools.lru_cache(1024)
def _encoded(name: str) -> bytes:
    return msgspec.json.encode(name)


def _usage(api: Api, fields: Mapping[str, msgspec.Raw]) -> Usage | None:
    given = fields.get("usage", _NULL)
    if bytes(given) == b"null":
        return None
    if api is Api.MESSAGES:
        return msgspec.json.decode(given, type=AnthropicUsage).usage()
    if api is Api.RESPONSES:
        return msgspec.json.decode(given, type=ResponsesUsage).usage()
    return msgspec.json.decode(given, type=OpenAIUsage).usage()


def _ends(api: Api, body: bytes) -> tuple[list[tuple[int, str]], bool]:
    """Why each completion ended, by its index; and whether all of it is that there is no answer."""
    if api in (Api.CHAT, Api.COMPLETIONS):
        choices = msgspec.json.decode(body, type=_Choices).choices
        reasons = [(choice.index, choice.finish_reason or "stop") for choice in choices]
        return reasons, bool(choices) and all(map(is_declined, choices))
    if api is Api.MESSAGES:
        reason = anthropic_finish_reason(msgspec.json.decode(body, type=_Ended).stop_reason or "")
        return [(0, reason)], reason == "content_filter"
    if api is Api.RESPONSES:
        response = msgspec.json.decode(body, type=Response)
        return [(0, response.finish_reason)], response.is_declined
    return [], False
