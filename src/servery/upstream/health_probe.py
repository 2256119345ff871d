"""How a deployment elsewhere is: asked now and then, and once it is there, what it serves."""

import asyncio
import logging
from collections.abc import Callable

import msgspec

from servery.config.types import DeploymentConfig
from servery.http.client import HttpClient
from servery.http.errors import HttpError
from servery.http.limits import Deadlines
from servery.http.url import Url
from servery.upstream.failure import UpstreamFailure
from servery.upstream.provider import Provider
from servery.upstream.upstream import Health
from servery.wire.errors import shown

log = logging.getLogger(__name__)

_MAX_BODY_BYTES = 4 << 20
_DISCOVERY_S = 5.0


class _Model(msgspec.Struct, frozen=True):
    id: str
    max_model_len: int | None = None
    max_input_tokens: int | None = None  # as Anthropic has it

    def is_meant_by(self, name: str) -> bool:
        """Whether `name` is this model's, or its name without the date behind it."""
        return self.id == name or self.id.startswith(f"{name}-20")


class _Models(msgspec.Struct, frozen=True):
    data: list[_Model]


class HealthProbe:
    """Asks GET `health.path` every `health.interval_s`; without a path, only once what the deployment serves.

    `max_model_len` is the model's context in tokens where the deployment tells it.
    """

    def __init__(
        self, config: DeploymentConfig, url: Url, provider: Provider, client: Callable[[], HttpClient]
    ) -> None:
        self._config = config
        self._url = url
        self._provider = provider
        self._client = client
        self._fault: str | None = None
        self._answered_s: float | None = None  # of the event loop's clock
        self._task: asyncio.Task[None] | None = None
        self.max_model_len: int | None = None

    def start(self) -> None:
        """Begin; a second time does nothing."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"probe of {self._config.name}")

    async def stop(self) -> None:
        """End, at any time."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def health(self) -> Health:
        """Ready unless the last probe failed."""
        age_s = 0.0 if self._answered_s is None else asyncio.get_running_loop().time() - self._answered_s
        is_ready = self._fault is None
        return Health(is_ready, self._fault or "it answers", age_s, is_alive=is_ready)

    async def _run(self) -> None:
        probe, is_known = self._config.health, False
        while True:
            if probe.path is not None:
                self._take(await self._ask(probe.path, probe.timeout_s))
            if self._fault is None and not is_known:
                is_known = await self._discover()
            if probe.path is None:
                return
            await asyncio.sleep(probe.interval_s)

    def _take(self, fault: str | None) -> None:
        """What the probe says now; of a change the log has a line."""
        if fault is not None and self._fault is None:
            log.warning("%s takes no requests: %s", self._config.name, fault)
        elif fault is None and self._fault is not None:
            log.info("%s takes requests again", self._config.name)
        self._fault = fault

    async def _ask(self, path: str, timeout_s: float) -> str | None:
        """What is wrong, None if nothing is."""
        try:
            status, _ = await self._get(path, timeout_s)
        except (HttpError, UpstreamFailure) as error:
            return f"its health cannot be asked: {error}"
        if status >= 300:
            return f"GET {path} answers {status}"
        self._answered_s = asyncio.get_running_loop().time()
        return None

    async def _discover(self) -> bool:
        """Whether it was found out what the deployment serves; says so if the model is not there."""
        path = self._provider.models_path
        if path is None:
            return True
        try:
            status, body = await self._get(self._url.path + path, _DISCOVERY_S)
            models = msgspec.json.decode(body, type=_Models).data
        except (HttpError, UpstreamFailure, msgspec.DecodeError) as error:
            log.info("%s does not tell what it serves: %s", self._config.name, error)
            return False
        if found := [model for model in models if model.is_meant_by(self._config.model)]:
            self.max_model_len = found[0].max_model_len or found[0].max_input_tokens
        elif status < 300:
            served = shown(", ".join(sorted(model.id for model in models)))
            log.warning("%s does not list '%s'; it serves %s", self._config.name, self._config.model, served)
        return True

    async def _get(self, target: str, timeout_s: float) -> tuple[int, bytes]:
        address = f"{self._url.origin}{target}"
        credentials = await self._provider.credentials("GET", address, b"")
        own = [(name.lower(), value.reveal()) for name, value in self._config.headers.items()]
        headers = [(name.encode(), value.encode()) for name, value in (*credentials, *own)]
        deadlines = Deadlines(queue_s=timeout_s, connect_s=timeout_s, head_s=timeout_s, total_s=timeout_s)
        async with await self._client().request(
            self._url.origin, "GET", target, headers, deadlines=deadlines
        ) as response:
            return response.status, await response.read(_MAX_BODY_BYTES)
