"""Speaks to Bedrock's Converse API: every chat is translated."""

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from servery.config.types import DeploymentConfig
from servery.upstream.ask import Ask
from servery.upstream.bedrock.answer import ConverseStream, read_answer
from servery.upstream.bedrock.errors import refused
from servery.upstream.bedrock.request import converse_request
from servery.upstream.bedrock.signature import Signer
from servery.upstream.failure import UpstreamFailure
from servery.upstream.provider import JSON, Outgoing
from servery.upstream.translatable import chat_of
from servery.upstream.translated import TranslatedBody, TranslatedStream
from servery.upstream.upstream import Call
from servery.wire.chat import ChatRequest
from servery.wire.errors import ApiError

_FRAMES = "application/vnd.amazon.eventstream"


def address(config: DeploymentConfig) -> str:
    """Where Bedrock answers: the deployment's own url, or the public one of its region."""
    if config.url is not None:
        return config.url
    domain = "amazonaws.com.cn" if (config.region or "").startswith("cn-") else "amazonaws.com"
    return f"https://bedrock-runtime.{config.region}.{domain}"


class BedrockProvider:
    """One deployment of the kind `bedrock`."""

    models_path = None

    def __init__(self, config: DeploymentConfig) -> None:
        self._config = config
        self._signer = Signer(config.region or "")
        key = config.api_key
        given = None if key is None else (("authorization", f"Bearer {key.reveal()}"),)
        self.constant_credentials: Sequence[tuple[str, str]] | None = given  # else each request is signed

    def outgoing(self, ask: Ask, call: Call) -> Outgoing:
        """What asks Converse, or ConverseStream, for the same."""
        name, made = self._config.name, converse_request(chat_of(ask, call), self._config.model)
        is_call, form = made.is_held_by_call, call.form or ask.form()
        path = f"/model/{quote(self._config.model, safe='')}"
        if ask.is_stream:
            stream = TranslatedStream(form, ConverseStream(name, is_held_by_call=is_call))
            return Outgoing(path=f"{path}/converse-stream", body=made.body, reader=stream, content_type=_FRAMES)
        whole = TranslatedBody(form, lambda body: read_answer(body, name, is_held_by_call=is_call))
        return Outgoing(path=f"{path}/converse", body=made.body, reader=whole, content_type=JSON)

    def counting(self, request: ChatRequest) -> tuple[str, bytes] | None:
        """Nobody counts there in a way that all have."""
        return None

    async def credentials(self, method: str, url: str, body: bytes) -> Sequence[tuple[str, str]]:
        """The deployment's key, or a signature."""
        if self.constant_credentials is not None:
            return self.constant_credentials
        return await self._signer.headers(method, url, body)

    def refused(self, status: int, headers: Mapping[str, str], body: bytes) -> ApiError | UpstreamFailure:
        """The exception for an answer with an error status."""
        return refused(status, headers, body, self._config.name)
