"""What the handlers of all requests share, and one request on its way through them."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import msgspec

from servery.gateway.gateway import Gateway
from servery.gateway.settle.record import Record
from servery.server.admin import AdminDoor
from servery.server.aliases import alias_target, whole_names
from servery.server.auth import KeyRing
from servery.server.front import Front
from servery.server.interrupt import Interrupt, Reason
from servery.server.key_watch import KeyWatch
from servery.server.lifecycle import Lifecycle
from servery.server.metrics_door import MetricsDoor
from servery.server.options import ServeOptions
from servery.server.reply import Reply
from servery.server.request import Request
from servery.server.response_store import ResponseStore
from servery.server.siblings import Siblings
from servery.server.storage import Storage, no_storage
from servery.server.turned_away import TurnedAway
from servery.telemetry.ledger.audit import AuditLog
from servery.telemetry.metrics import Metrics
from servery.telemetry.slo_watch import SloWatch, nothing_watched
from servery.telemetry.traces.trace import Trace
from servery.telemetry.traces.tracer import Tracer
from servery.upstream.caller import ANYBODY, Caller
from servery.upstream.residence import Residence
from servery.upstream.upstream import Upstream
from servery.wire.anthropic import AnthropicRequest, CountRequest
from servery.wire.chat import ChatRequest
from servery.wire.completions import CompletionRequest
from servery.wire.embeddings import EmbeddingRequest
from servery.wire.errors import ApiError, model_not_found
from servery.wire.rerank import RerankRequest
from servery.wire.responses import ResponsesRequest

if TYPE_CHECKING:
    from servery.server.dashboard.board import Dashboard

# What is kept of `/v1/responses` for later requests to go on with.
MAX_RESPONSES = 1_000
MAX_RESPONSE_BYTES = 64 << 20
# What clients of TGI call the model: it serves one and ignores the name.
TGI_MODELS = ("tgi", "dummy")


R = TypeVar(
    "R",
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    RerankRequest,
    AnthropicRequest,
    CountRequest,
    ResponsesRequest,
)


async def _nothing_new(name: str) -> None:
    """What is served stays the same."""


@dataclass(slots=True, kw_only=True)
class Service:
    """A server's parts: one upstream per model by the name that clients ask for, and the clock of all timings.

    `gateway` has them answer. `residences` say which models are in memory, by the same names; `look_for` finds one that
    came since the start; `reload` takes up the configuration's file, where there is one; `audit` is told what
    administrators do.
    `key_watch` has the store of keys; `viewers` may look at the `dashboard`. Of these only `options` are ever others: those of the configuration in force.
    """

    upstreams: Mapping[str, Upstream]
    gateway: Gateway
    residences: Mapping[str, Residence] = field(default_factory=dict)
    look_for: Callable[[str], Awaitable[None]] = _nothing_new
    reload: Callable[[], Awaitable[object]] | None = None
    options: ServeOptions
    keys: KeyRing
    admin: AdminDoor
    metrics_door: MetricsDoor
    clock: Callable[[], float]
    metrics: Metrics = field(default_factory=Metrics)
    slo: SloWatch = field(default_factory=nothing_watched)
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    audit: AuditLog = field(default_factory=AuditLog)
    turned_away: TurnedAway = field(init=False)
    storage: Storage | None = None
    siblings: Siblings | None = None
    key_watch: KeyWatch | None = None
    tracer: Tracer | None = None
    viewers: KeyRing = field(default_factory=lambda: KeyRing(()))
    dashboard: "Dashboard | None" = None
    responses: ResponseStore = field(default_factory=lambda: ResponseStore(MAX_RESPONSES, MAX_RESPONSE_BYTES))

    def __post_init__(self) -> None:
        self.turned_away = TurnedAway(self.audit, self.clock)

    async def metrics_page(self) -> bytes:
        """This process's figures for Prometheus, as they are now."""
        await self.slo.refresh_metrics()
        return self.metrics.render()

    @property
    def stored(self) -> Storage:
        """What is kept on disk; raises `ApiError` (404) where nothing is."""
        if self.storage is None:
            raise no_storage()
        return self.storage

    def upstream_for(self, caller: Caller, model: str) -> Upstream:
        """Where `model` runs, or what it is an alias of, at the tiers of the caller; raises `ApiError` (404) as `located`.

        An adapter is `base:adapter`; clients of vLLM know the adapter's name alone, which will do where one base has it.
        """
        base = self.located(model, caller)[1]
        if caller.tiers is not None:
            served = self.gateway.fleet.models[base]
            within = served.within(caller.tiers)
            if len(within.deployments) < len(served.deployments):
                return Front(within)
        return self.upstreams[base]

    def located(self, model: str, caller: Caller = ANYBODY) -> tuple[str, str]:
        """The name by which `model` is served, and that of the model itself if it is an adapter's.

        Raises `ApiError` (404) naming what is served, of that what the caller may ask for: the rest is as if it were not
        there, in the same words.
        """
        if model in self.upstreams and not caller.is_bound:  # as nearly all are
            return model, model
        name = self.unaliased(model)
        base = self._base_name(name)
        if base is None or not self.gateway.fleet.is_for(caller, base, name, model):
            raise model_not_found(
                model if caller.is_bound else name, [each for each in self._names() if self.is_for(caller, each)]
            )
        return name, base

    def is_for(self, caller: Caller, model: str) -> bool:
        """Whether a caller may ask for a model, an adapter or an alias, and so see that it is there."""
        if not caller.is_bound:
            return True
        name = self.unaliased(model)
        base = self._base_name(name)
        return base is not None and self.gateway.fleet.is_for(caller, base, name, model)

    def unaliased(self, model: str) -> str:
        """The name by which `model` is served: itself unless it is an alias. What nobody knows stays as it is.

        TGI's clients call whatever it serves by the same names: where one model is served, that is it.
        """
        if self._base_name(model):
            return model
        known = alias_target(self.options.aliases, self.upstreams, model)
        if known is None and model in TGI_MODELS and len(self.upstreams) == 1:
            return next(iter(self.upstreams))
        return known or model

    def addressed(self, request: R) -> R:
        """`request` for the model that its `model` is an alias of, if it is one."""
        name = self.unaliased(request.model)
        return request if name == request.model else msgspec.structs.replace(request, model=name)

    def base(self, model: str) -> Upstream:
        """Where a model runs that is no adapter; raises `ApiError` (404) naming those that are served."""
        if model not in self.upstreams:
            raise model_not_found(model, self.upstreams)
        return self.upstreams[model]

    def place(self, deployment: str) -> Upstream:
        """What speaks to a deployment, which is called as its model where there is no configuration."""
        return self.gateway.fleet.deployments[deployment].upstream

    def _names(self) -> list[str]:
        adapters = [each.id for upstream in self.upstreams.values() for each in upstream.adapters().values()]
        return [*self.upstreams, *adapters, *whole_names(self.options.aliases)]

    def _base_name(self, model: str) -> str | None:
        """The model itself of a served name, which may be an adapter's; None if nothing is served by it."""
        if model in self.upstreams:
            return model
        base, colon, adapter = model.rpartition(":")
        bases = [base] if base in self.upstreams else [] if colon else list(self.upstreams)
        holders = [name for name in bases if adapter in self.upstreams[name].adapters()]
        return holders[0] if len(holders) == 1 else None


class Exchange(msgspec.Struct, kw_only=True, eq=False):
    """One request and its answer.

    `arguments` are the parts of its path that its route has names for; `record` is there once it is known which model
    answers; `caller` is whose key it came with; `total_s` the most that its answer may take,
    where its model has a limit of its own; `subject` what an administrator does something to; `trace` what is told of it, if anything is.
    """

    request: Request
    reply: Reply
    interrupt: Interrupt
    arguments: Mapping[str, str] = {}
    record: Record | None = None
    total_s: float | None = None
    caller: Caller = ANYBODY
    subject: str = ""
    trace: Trace | None = None

    @property
    def owner(self) -> bytes:
        """The caller's tenant: what it left here is its own."""
        return self.caller.tenant

    async def body(self, options: ServeOptions) -> bytes:
        """The request's JSON, bounded in bytes and time; then the time for the answer begins to run."""
        body = self.request.whole(options.max_body_bytes)
        if body is None:
            self.interrupt.fire_after(options.body_timeout_s, Reason.SLOW_BODY)
            body = await self.request.json_body(options.max_body_bytes)
        self.interrupt.fire_after(options.request_timeout_s, Reason.TIMEOUT)
        return body

    def limit(self, total_s: float, now: float) -> None:
        """Let the answer take so long in all, from the request's arrival."""
        self.total_s = total_s
        self.interrupt.fire_after(max(0.0, self.request.arrived_s + total_s - now), Reason.TIMEOUT)


def only_model(service: Service, model: str | None, caller: Caller = ANYBODY) -> str:
    """The model asked for, or the only one that the caller may ask for; raises `ApiError` when that is not clear."""
    if model is not None:
        return model
    served = [name for name in service.upstreams if service.is_for(caller, name)]
    if len(served) == 1:
        return served[0]
    names = ", ".join(f"'{name}'" for name in sorted(served)) or "nothing"
    message = f"Missing required parameter: 'model'. Served here: {names}."
    raise ApiError(400, message, param="model", code="missing_required_parameter")
