"""The upstream that asks a model elsewhere, over HTTP."""

import functools
import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from servery.config.types import DeploymentConfig
from servery.engine.stats import EngineStats
from servery.http.client import HttpClient
from servery.http.errors import HttpError
from servery.http.limits import Deadlines
from servery.http.request_head import Header
from servery.http.response import Response
from servery.http.url import TlsFiles, parse_url
from servery.upstream.ask import Ask
from servery.upstream.failure import UpstreamFailure
from servery.upstream.health_probe import HealthProbe
from servery.upstream.http_failures import failure
from servery.upstream.provider import JSON, AnswerReader, Outgoing, Provider
from servery.upstream.redaction import without
from servery.upstream.refusal import malformed, not_an_api
from servery.upstream.upstream import Call, Chunk, Health
from servery.wire.chat import ChatRequest
from servery.wire.errors import ApiError, shown
from servery.wire.models import Model
from servery.wire.tokenize import DetokenizeRequest, TokenizeRequest

_CONNECT_S = 5.0
_COUNT_S = 30.0
_MAX_ERROR_BYTES = 64 << 10
_MAX_BODY_BYTES = 256 << 20  # of an answer that is not streamed, and so is held as a whole
_OK = 200


class RemoteUpstream:
    """A deployment somewhere else, spoken to as `provider` does; `client` is shared with others and closed by whoever made it."""

    def __init__(
        self, config: DeploymentConfig, url: str, provider: Provider, client: Callable[[], HttpClient]
    ) -> None:
        """`url` is where its API lies; raises `BadUrl`. `client` is called where the event loop runs."""
        self.name = config.name
        self._config = config
        self._url = parse_url(url, TlsFiles(ca=None if config.ca_file is None else str(config.ca_file)))
        self._provider = provider
        self._client = client
        self._created = int(time.time())
        self._origin = str(self._url.origin)
        # Most requests have the same headers as the one before.
        self._last_headers: tuple[Sequence[tuple[str, str]], tuple[Header, ...]] = (), ()
        self._probe = HealthProbe(config, self._url, provider, client)

    async def start(self) -> None:
        """Begin to ask after its health; a deployment that is not there yet is no reason not to start."""
        self._probe.start()

    async def stop(self) -> None:
        """Ask no more."""
        await self._probe.stop()

    def health(self) -> Health:
        """What the last probe said; ready where there is none, because answers tell as well."""
        return self._probe.health()

    def model(self) -> Model:
        """The description; its context where the deployment tells it."""
        return Model(id=self.name, created=self._created, max_model_len=self._probe.max_model_len, root=self.name)

    def adapters(self) -> Mapping[str, Model]:
        """None: a deployment elsewhere has its own way to load them, and each is a model of its own."""
        return {}

    async def load_adapter(self, name: str, path: Path) -> None:
        """Raise `ApiError`."""
        self._refuse("adapters are loaded by whoever runs it")

    def unload_adapter(self, name: str) -> int:
        """Raise `ApiError`."""
        self._refuse("adapters are unloaded by whoever runs it")

    def stats(self) -> EngineStats | None:
        """None: what the engine elsewhere does is not told."""
        return None

    def answer(self, ask: Ask, call: Call) -> AsyncGenerator[Chunk, None]:
        """The answer; closing it closes the connection, which ends the work there."""
        return self._exchange(ask, call)

    async def tokenize(self, request: TokenizeRequest) -> bytes:
        """Raise `ApiError`."""
        self._refuse("it runs elsewhere, and so does its tokenizer")

    async def count(self, request: ChatRequest) -> int:
        """What the deployment counts; raises `ApiError`, also where it cannot."""
        try:
            asked = self._provider.counting(request)
            if asked is None:
                self._refuse("it runs elsewhere, and so does its tokenizer")
            reader = _Pieces()
            outgoing = Outgoing(path=asked[0], body=asked[1], reader=reader)
            async for _ in self._exchange(outgoing, Call(id="count", deadline=time.monotonic() + _COUNT_S)):
                pass
            return reader.decoded(self.name)
        except UpstreamFailure as failed:
            raise failed.error from failed

    async def detokenize(self, request: DetokenizeRequest) -> bytes:
        """Raise `ApiError`."""
        self._refuse("it runs elsewhere, and so does its tokenizer")

    def _outgoing(self, ask: Ask, call: Call) -> Outgoing:
        if ask.model != ask.base and ask.adapter is not None:
            raise ApiError(404, f"'{self.name}' has no adapter '{shown(ask.adapter)}'.", param="model")
        return self._provider.outgoing(ask, call)

    async def _exchange(self, asked: Ask | Outgoing, call: Call) -> AsyncGenerator[Chunk, None]:
        outgoing = asked if isinstance(asked, Outgoing) else self._outgoing(asked, call)
        reader, size = outgoing.reader, 0
        chunks: Sequence[Chunk]
        try:
            response = await self._send(outgoing, call)
            try:
                if response.status != _OK:
                    raise await self._refusal(response)
                content_type = response.headers.get(b"content-type")
                if content_type and not _is_of(content_type, outgoing.content_type):
                    given = content_type.decode("latin-1")
                    raise not_an_api(self.name, given, outgoing.content_type, await response.piece())
                while True:
                    if call.sink is not None and call.sink.take is not None:
                        poured = _Poured(reader, call.sink.take)
                        is_over, chunks = await response.pour(poured.feed), poured.untaken
                    else:
                        piece = await response.piece() if (ready := response.ready()) is None else ready
                        is_over, size = not piece, size + len(piece)
                        if size > _MAX_BODY_BYTES and outgoing.content_type == JSON:
                            raise malformed(self.name, f"an answer of more than {_MAX_BODY_BYTES} bytes")
                        chunks = reader.feed(piece) if piece else ()
                    for chunk in chunks:
                        yield chunk
                    if is_over:
                        break
            finally:
                response.close()
            for chunk in reader.end():
                yield chunk
        except HttpError as error:
            raise self._discreet(failure(error, self.name)) from error
        except (UpstreamFailure, ApiError) as error:
            self._discreet(error)
            raise

    def _discreet(self, error: UpstreamFailure | ApiError) -> UpstreamFailure | ApiError:
        """The same error without the secrets that this deployment is sent, should it repeat them."""
        secrets = self._secrets()
        if isinstance(error, UpstreamFailure):
            error.message = without(error.message, secrets)
            error.logged = without(error.logged, secrets)
            error.error.message = without(error.error.message, secrets)
        else:
            error.message = without(error.message, secrets)
        return error

    def _secrets(self) -> list[str]:
        config = self._config
        given = [*config.headers.values(), *([] if config.api_key is None else [config.api_key])]
        return [each.reveal() for each in given]

    async def _send(self, outgoing: Outgoing, call: Call) -> Response:
        target = self._url.path + outgoing.path
        constant = self._provider.constant_credentials
        credentials = (
            await self._provider.credentials("POST", f"{self._origin}{target}", outgoing.body)
            if constant is None
            else constant
        )
        key = (*credentials, *outgoing.headers, ("accept", outgoing.content_type))
        if key != self._last_headers[0]:
            self._last_headers = key, self._encoded(key)
        headers = self._last_headers[1]
        if call.onward is not None:
            headers = (*headers, *call.onward.headers)
        left_s = math.inf if call.deadline is None else max(0.001, call.deadline - time.monotonic())
        # How long a first token and each further one of a stream may take is judged by whoever waits for them.
        stall_s = math.inf if call.stall_s is None else call.stall_s
        deadlines = Deadlines(connect_s=call.connect_s or _CONNECT_S, head_s=math.inf, stall_s=stall_s, total_s=left_s)
        client, origin = self._client(), self._url.origin
        # A kept connection that is closed as the request goes out cost the deployment nothing: there was no time to compute
        # anything. One that is closed later is a failure like others, for the retry budget and the ledger.
        return await client.request(
            origin, "POST", target, headers, outgoing.body, deadlines=deadlines, is_repeatable=True
        )

    def _encoded(self, more: Sequence[tuple[str, str]]) -> tuple[Header, ...]:
        """The headers of a request; the configuration's count more than all others."""
        own = {name.lower(): value.reveal() for name, value in self._config.headers.items()}
        headers = {**dict(more), "content-type": "application/json", **own}
        return tuple((name.encode(), value.encode()) for name, value in headers.items())

    async def _refusal(self, response: Response) -> ApiError | UpstreamFailure:
        """What an answer with an error status says."""
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        return self._provider.refused(response.status, headers, await _beginning(response))

    def _refuse(self, why: str) -> NoReturn:
        message = f"'{self.name}' cannot do that: {why}."
        raise ApiError(501, message, kind="server_error", code="not_implemented", param="model")


class _Poured:
    """Reads pieces of a body as they come, and has chunks taken until one is not."""

    def __init__(self, reader: AnswerReader, take: Callable[[Chunk], bool]) -> None:
        self._reader = reader
        self._take = take
        self.untaken: list[Chunk] = []

    def feed(self, piece: bytes) -> bool:
        """Whether all was taken; raises what the reader and who takes raise."""
        for chunk in self._reader.feed(piece):
            if self.untaken or not self._take(chunk):
                self.untaken.append(chunk)
        return not self.untaken


@functools.lru_cache(256)
def _is_of(content_type: bytes, wanted: str) -> bool:
    return content_type.lower().startswith(wanted.encode())


class _Counted(msgspec.Struct, frozen=True):
    input_tokens: int


class _Pieces:
    """Reads a count."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> list[Chunk]:
        self._pieces.append(data)
        return []

    def end(self) -> list[Chunk]:
        return []

    def decoded(self, deployment: str) -> int:
        try:
            return msgspec.json.decode(b"".join(self._pieces), type=_Counted).input_tokens
        except msgspec.DecodeError as error:
            raise malformed(deployment, f"a count that cannot be read: {error}") from error


async def _beginning(response: Response) -> bytes:
    """As much of an error as is wanted of it."""
    body = b""
    async for piece in response:
        body += piece
        if len(body) >= _MAX_ERROR_BYTES:
            break
    return body
