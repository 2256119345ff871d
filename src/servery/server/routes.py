"""Which handler answers which path and method."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from servery.server import answers, health, models, tokens
from servery.server.service import Exchange, Service
from servery.wire.dialect import OPENAI, Dialect
from servery.wire.errors import ApiError, did_you_mean, shown

Handler: TypeAlias = Callable[[Service, Exchange], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """`is_open` ones are answered without a key; `is_work` ones are refused, and waited for, when the server stops.

    `dialect` is the API that the path belongs to: its clients read errors its way.
    """

    path: str
    method: str
    handler: Handler
    is_open: bool = False
    is_work: bool = False
    dialect: Dialect = OPENAI


def _work(path: str, handler: Handler) -> Route:
    return Route(path=path, method="POST", handler=handler, is_work=True)


_MODEL = Route(path=f"{models.MODEL_PREFIX}{{id}}", method="GET", handler=models.model)

ROUTES: Mapping[str, Route] = {
    route.path: route
    for route in (
        _work("/v1/chat/completions", answers.chat),
        _work("/v1/completions", answers.completion),
        _work("/v1/embeddings", answers.embedding),
        _work("/tokenize", tokens.tokenize),
        _work("/detokenize", tokens.detokenize),
        Route(path="/v1/models", method="GET", handler=models.models),
        _MODEL,
        Route(path="/metrics", method="GET", handler=health.metrics),
        Route(path="/health", method="GET", handler=health.health, is_open=True),
        Route(path="/ready", method="GET", handler=health.ready, is_open=True),
    )
}


def find_route(path: str) -> Route | None:
    """The route of `path`; each has one method."""
    if path.startswith(models.MODEL_PREFIX) and len(path) > len(models.MODEL_PREFIX):
        return _MODEL
    return ROUTES.get(path) if "{" not in path else None


def check_method(route: Route, method: str) -> None:
    """Raise `ApiError` (405) for a method that the route does not have; HEAD goes where GET does."""
    allowed = ("GET", "HEAD") if route.method == "GET" else (route.method,)
    if method not in allowed:
        listed = ", ".join(allowed)
        message = f"{route.path} does not take {method[:20]}; use {' or '.join(allowed)}."
        raise ApiError(405, message, code="method_not_allowed", headers=[("allow", listed)])


def no_route(path: str) -> ApiError:
    """404 for an unknown path, with the nearest known one."""
    message = f"There is nothing at '{shown(path)}'.{did_you_mean(path, ROUTES)}"
    return ApiError(404, message, code="not_found")
