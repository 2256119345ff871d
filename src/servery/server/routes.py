"""Which handler answers which path and method."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from servery.server import (
    adapters,
    answers,
    batches,
    config_api,
    files,
    generate,
    health,
    keys_api,
    models,
    residence,
    responses,
    slo_api,
    tokens,
)
from servery.server.dashboard import pages as dashboard
from servery.server.router import Matched, Router
from servery.server.service import Exchange, Service
from servery.wire.anthropic_answer import ANTHROPIC
from servery.wire.anthropic_models import is_anthropic
from servery.wire.dialect import OPENAI, Dialect
from servery.wire.errors import ApiError, did_you_mean, shown
from servery.wire.responses_answer import RESPONSES
from servery.wire.tgi import TGI

Handler: TypeAlias = Callable[[Service, Exchange], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """`is_open` ones are answered without a key, `is_admin` ones only to those who may change what is served, `is_figures`
    ones only to those who may read the metrics.

    `is_work` ones are refused, and waited for, when the server stops.

    `dialect` is the API that the path belongs to: its clients read errors its way. None: several APIs have it.
    """

    path: str
    method: str
    handler: Handler
    is_open: bool = False
    is_admin: bool = False
    is_figures: bool = False
    is_work: bool = False
    dialect: Dialect | None = OPENAI


def _work(path: str, handler: Handler, dialect: Dialect = OPENAI) -> Route:
    return Route(path=path, method="POST", handler=handler, is_work=True, dialect=dialect)


def _admin(path: str, handler: Handler) -> Route:
    return Route(path=path, method="POST", handler=handler, is_work=True, is_admin=True)


def _page(path: str, handler: Handler, method: str = "GET") -> Route:
    """One that looks itself who may have it."""
    return Route(path=path, method=method, handler=handler, is_open=True)


ROUTES: Sequence[Route] = (
    _work("/v1/chat/completions", answers.chat),
    _work("/v1/completions", answers.completion),
    _work("/v1/embeddings", answers.embedding),
    *(_work(path, answers.ranking) for path in ("/v1/rerank", "/v2/rerank", "/rerank")),
    _work("/v1/messages", answers.message, ANTHROPIC),
    _work("/v1/messages/count_tokens", tokens.count, ANTHROPIC),
    _work("/v1/responses", responses.create, RESPONSES),
    _work("/v1/responses/input_tokens", responses.count, RESPONSES),
    Route(path="/v1/responses/{id}", method="GET", handler=responses.retrieve),
    Route(path="/v1/responses/{id}", method="DELETE", handler=responses.delete),
    Route(path="/v1/responses/{id}/cancel", method="POST", handler=responses.cancel),
    Route(path="/v1/responses/{id}/input_items", method="GET", handler=responses.input_items),
    Route(path="/v1/files", method="POST", handler=files.create, is_work=True),
    Route(path="/v1/files", method="GET", handler=files.listed),
    Route(path="/v1/files/{id}", method="GET", handler=files.retrieve),
    Route(path="/v1/files/{id}", method="DELETE", handler=files.delete),
    Route(path="/v1/files/{id}/content", method="GET", handler=files.content),
    Route(path="/v1/batches", method="POST", handler=batches.create),
    Route(path="/v1/batches", method="GET", handler=batches.listed),
    Route(path="/v1/batches/{id}", method="GET", handler=batches.retrieve),
    Route(path="/v1/batches/{id}/cancel", method="POST", handler=batches.cancel),
    _work("/generate", generate.generate, TGI),
    _work("/generate_stream", generate.stream, TGI),
    _work("/", generate.either, TGI),
    Route(path="/info", method="GET", handler=generate.info, dialect=TGI),
    _work("/tokenize", tokens.tokenize),
    _work("/detokenize", tokens.detokenize),
    _admin("/v1/load_lora_adapter", adapters.load),
    _admin("/v1/unload_lora_adapter", adapters.unload),
    _admin("/v1/models/load", residence.load),
    _admin("/v1/models/unload", residence.unload),
    _admin("/sleep", residence.sleep),
    _admin("/wake_up", residence.wake_up),
    _admin("/v1/config/reload", config_api.reload),
    Route(path="/v1/config", method="GET", handler=config_api.show, is_admin=True),
    Route(path="/admin/slo", method="GET", handler=slo_api.show, is_admin=True),
    Route(path="/v1/keys", method="GET", handler=keys_api.listed, is_admin=True),
    Route(path="/v1/keys", method="POST", handler=keys_api.create, is_admin=True, is_work=True),
    Route(path="/v1/keys/{id}", method="GET", handler=keys_api.retrieve, is_admin=True),
    Route(path="/v1/keys/{id}", method="DELETE", handler=keys_api.revoke, is_admin=True, is_work=True),
    Route(path="/v1/keys/{id}/rotate", method="POST", handler=keys_api.rotate, is_admin=True, is_work=True),
    Route(path="/is_sleeping", method="GET", handler=residence.is_sleeping),
    Route(path="/v1/models", method="GET", handler=models.models, dialect=None),
    Route(path="/v1/models/{id...}", method="GET", handler=models.model, dialect=None),
    Route(path="/v1/models/{id...}", method="DELETE", handler=models.delete, is_work=True, is_admin=True),
    Route(path="/metrics", method="GET", handler=health.metrics, is_figures=True),
    _page("/dashboard", dashboard.page),
    _page("/dashboard/", dashboard.moved),
    _page("/dashboard/static/{name}", dashboard.asset),
    _page("/dashboard/api/session", dashboard.session),
    _page("/dashboard/api/snapshot", dashboard.snapshot),
    _page("/dashboard/api/feed", dashboard.feed),
    _page("/dashboard/api/history", dashboard.history),
    _page("/dashboard/api/login", dashboard.login, "POST"),
    _page("/dashboard/api/logout", dashboard.logout, "POST"),
    Route(path="/dashboard/api/chat", method="POST", handler=dashboard.chat, is_open=True, is_work=True),
    Route(path="/health", method="GET", handler=health.health, is_open=True),
    Route(path="/ready", method="GET", handler=health.ready, is_open=True),
    Route(path="/ping", method="GET", handler=health.health, is_open=True),
    Route(path="/ping", method="POST", handler=health.health, is_open=True),
    Route(path="/version", method="GET", handler=health.version, is_open=True),
)
_ROUTER = Router(ROUTES)


def _asked(method: str) -> str:
    """HEAD goes where GET does."""
    return "GET" if method == "HEAD" else method


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a request goes: every route of its path.

    `exact` is the one for its method, None if there is none; `any_route` that or another of its path: they are of one API.
    """

    matched: Matched[Route]
    method: str
    exact: Route | None = field(init=False)
    any_route: Route = field(init=False)

    def __post_init__(self) -> None:
        by_method = self.matched.by_method
        object.__setattr__(self, "exact", by_method.get(_asked(self.method)))
        object.__setattr__(self, "any_route", self.exact or next(iter(by_method.values())))

    def route(self) -> Route:
        """The one for the request's method; raises `ApiError` (405) when its path has others only."""
        by_method = self.matched.by_method
        if self.exact is not None:
            return self.exact
        allowed = [name for method in sorted(by_method) for name in (("GET", "HEAD") if method == "GET" else (method,))]
        message = f"{self.any_route.path} does not take {self.method[:20]}; use {' or '.join(allowed)}."
        headers = [("allow", ", ".join(allowed))]
        raise ApiError(405, message, code="method_not_allowed", headers=headers)


def find(method: str, path: str) -> Destination | None:
    """What lives at `path`; None if nothing does."""
    known = _WHOLE.get((method, path))
    if known is not None:
        return known
    matched = _ROUTER.match(path)
    return None if matched is None else Destination(matched, method)


# Where requests go whose path is no pattern, and has their method.
_WHOLE = {
    (route.method, route.path): Destination(matched, route.method)
    for route in ROUTES
    if "{" not in route.path and (matched := _ROUTER.match(route.path)) is not None
}


def spoken(route: Route | None, headers: Mapping[bytes, bytes]) -> Dialect:
    """The dialect of a request's answer: its route's, else that of its client."""
    if route is not None and route.dialect is not None:
        return route.dialect
    return ANTHROPIC if is_anthropic(headers) else OPENAI


def no_route(path: str) -> ApiError:
    """404 for an unknown path, with the nearest known one."""
    message = f"There is nothing at '{shown(path)}'.{did_you_mean(path, _ROUTER.paths)}"
    return ApiError(404, message, code="not_found")
