"""The door before everything that changes what is served: no by default, whatever the route."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from servery.server.admin import is_loopback
from servery.server.routes import ROUTES, Route
from tests.server.asgi import ask
from tests.server.fakes import FakeUpstream, make_app

ADMIN_PATHS = [
    "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/models/load", "/v1/models/unload", "/sleep", "/wake_up",
    "/v1/config/reload", "/v1/config", "/v1/keys", "/v1/keys/key_1", "/v1/keys/key_1/rotate",
]  # fmt: skip
USER, ADMIN = {"authorization": "Bearer user"}, {"authorization": "Bearer admin"}


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(story())  # type: ignore[arg-type]


def test_the_admin_routes_are_these() -> None:
    admin = {route.path.replace("{id}", "key_1") for route in ROUTES if route.is_admin}
    assert admin == {*ADMIN_PATHS, "/v1/models/{id...}", "/admin/slo"}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_asks_for_the_key_that_it_takes(route: Route) -> None:
    """A route that is not said to be open asks for a key, one that changes what is served for an admin's, one that tells
    of everybody's requests for an admin's or its own."""

    async def story() -> None:
        path = route.path.replace("{id...}", "m").replace("{id}", "key_1")
        app = make_app(FakeUpstream(), api_keys=("user",), admin_keys=("admin",), metrics_keys=("reader",))
        wrong, reader = {"authorization": "Bearer wrong"}, {"authorization": "Bearer reader"}
        keys = ({}, wrong, USER, ADMIN, reader)
        statuses = [(await ask(app, route.method, path, b"", **each)).status for each in keys]
        assert (statuses.pop() in (401, 403)) is not (route.is_open or route.is_figures)
        if route.is_open:
            assert {401, 403}.isdisjoint(statuses)
        elif route.is_admin:
            assert statuses[:3] == [401, 401, 403]
            assert statuses[3] != 401
        elif route.is_figures:
            assert statuses == [401, 401, 403, 200]
        else:
            assert statuses[:2] == [401, 401]
            assert {401, 403}.isdisjoint(statuses[2:])
        abroad = make_app(FakeUpstream(), host="0.0.0.0")
        assert ((await ask(abroad, route.method, path, b"")).status == 403) is route.is_admin

    run(story)


def test_the_open_routes_are_these() -> None:
    found = {route.path for route in ROUTES if route.is_open}
    # The dashboard's have a door of their own: tests/server/dashboard/test_access.py.
    others = {path for path in found if not path.startswith("/dashboard")}
    assert others == {"/health", "/ready", "/ping", "/version"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [200, 200, 200, 200]),
        ({"host": "0.0.0.0"}, [200, 200, 200, 200]),
        ({"api_keys": ("user",)}, [401, 403, 401, 401]),
        ({"api_keys": ("user",), "admin_keys": ("admin",)}, [401, 403, 200, 401]),
        ({"api_keys": ("user",), "metrics_keys": ("reader",)}, [401, 403, 401, 200]),
        ({"metrics_keys": ("reader",)}, [401, 401, 401, 200]),
        ({"admin_keys": ("admin",)}, [401, 401, 200, 401]),
    ],
    ids=str,
)
def test_who_may_read_the_metrics(options: dict[str, Any], expected: list[int]) -> None:
    """Nobody but who is said to, unless the server asks nobody for a key."""

    async def story() -> None:
        app = make_app(FakeUpstream(), **options)
        keys = ({}, USER, ADMIN, {"x_api_key": "reader"})
        assert [(await ask(app, "GET", "/metrics", **each)).status for each in keys] == expected
        refused = await ask(app, "GET", "/metrics", **USER)
        assert refused.status != 403 or refused.error["code"] == "metrics_only"

    run(story)


@pytest.mark.parametrize("path", ADMIN_PATHS)
@pytest.mark.parametrize(
    ("options", "headers", "refusal"),
    [
        ({"admin_keys": ("admin",)}, {}, (401, "invalid_api_key")),
        ({"admin_keys": ("admin",)}, USER, (401, "invalid_api_key")),
        ({"admin_keys": ("admin",)}, ADMIN, None),
        ({"admin_keys": ("admin", "other")}, {"x_api_key": "other"}, None),
        ({"admin_keys": ("admin",)}, {**ADMIN, "origin": "https://x.example", "peer": "192.0.2.1"}, None),
        ({"admin_keys": ("admin",), "api_keys": ("user",)}, {}, (401, "invalid_api_key")),
        ({"admin_keys": ("admin",), "api_keys": ("user",)}, USER, (403, "admin_only")),
        ({"admin_keys": ("admin",), "api_keys": ("user",)}, ADMIN, None),
        ({"api_keys": ("user",)}, {}, (401, "invalid_api_key")),
        ({"api_keys": ("user",)}, USER, (403, "admin_only")),
        ({}, {}, None),
        ({"host": "::1"}, {"peer": "::1"}, None),
        ({"host": "0.0.0.0"}, {}, (403, "admin_only")),
        ({"host": "192.0.2.7"}, {}, (403, "admin_only")),
        ({}, {"peer": "192.0.2.1"}, (403, "admin_only")),
        ({}, {"origin": "http://127.0.0.1:8000"}, (403, "admin_only")),
        ({}, {"origin": "null"}, (403, "admin_only")),
        ({}, {"referer": "http://x.example/"}, (403, "admin_only")),
        ({}, {"sec_fetch_site": "same-origin"}, (403, "admin_only")),
        ({}, {"forwarded": "for=192.0.2.1"}, (403, "admin_only")),
        ({}, {"via": "1.1 proxy"}, (403, "admin_only")),
        ({}, {"x_forwarded_for": "192.0.2.1"}, (403, "admin_only")),
        ({}, {"x_real_ip": "192.0.2.1"}, (403, "admin_only")),
    ],
    ids=str,
)
def test_who_may_change_what_is_served(
    path: str, options: dict[str, Any], headers: dict[str, str], refusal: tuple[int, str] | None
) -> None:
    async def story() -> None:
        call = await ask(make_app(FakeUpstream(), **options), "POST", path, b"", **headers)
        if refusal is None:
            assert call.status not in (401, 403) or call.error["code"] == "lora_loading_disabled"
        else:
            assert (call.status, call.error["code"]) == refusal
            assert "user" not in call.error["message"]

    run(story)


def test_an_admin_key_is_a_key_and_users_need_none_where_there_is_no_other() -> None:
    async def story() -> None:
        with_users = make_app(FakeUpstream(), api_keys=("user",), admin_keys=("admin",))
        for headers, status in (({}, 401), (USER, 200), (ADMIN, 200)):
            assert (await ask(with_users, "GET", "/v1/models", **headers)).status == status
        assert (await ask(make_app(FakeUpstream(), admin_keys=("admin",)), "GET", "/v1/models")).status == 200

    run(story)


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("::ffff:10.0.0.1", False), ("example.com", False), ("", False),
    ],
)  # fmt: skip
def test_this_machine_is_known_by_its_addresses(host: str, is_local: bool) -> None:
    assert is_loopback(host) is is_local
