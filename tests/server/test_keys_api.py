"""`/v1/keys`: admins make keys, whoever has one asks with it, at once."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from servery.server.app import App
from servery.server.key_watch import KeyWatch
from servery.server.service import Service
from servery.upstream.upstream import Chunk
from tests.server.asgi import Call, ask
from tests.server.fakes import FakeUpstream, make_service

ADMIN = {"authorization": "Bearer admin"}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
JSON = {"content_type": "application/json"}


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(story())  # type: ignore[arg-type]


def site(folder: Path) -> tuple[App, Service]:
    upstreams = [FakeUpstream(Chunk(data=b'{"id":"x"}', tokens=1, prompt_tokens=2), name=name) for name in ("m", "n")]
    service = make_service(*upstreams, admin_keys=("admin",), key_store=folder / "keys.sqlite")
    watch = KeyWatch(folder / "keys.sqlite", service.keys, must_be=True)
    return App(dataclasses.replace(service, key_watch=watch)), service


async def admin(app: App, method: str, path: str, body: Any = b"") -> Call:
    return await ask(app, method, path, body, **ADMIN, **JSON)


async def chat(app: App, key: str, **fields: Any) -> Call:
    return await ask(app, "POST", "/v1/chat/completions", {**CHAT, **fields}, authorization=f"Bearer {key}", **JSON)


def test_a_key_lives_from_when_it_is_made_until_it_is_revoked(tmp_path: Path) -> None:
    async def story() -> None:
        app, _ = site(tmp_path)
        assert (await chat(app, "x")).status == 401
        body = {
            "name": "app", "owner": "team", "models": ["m"], "tiers": ["embedded"], "expires": "2099-01-31",
            "limits": {"requests_per_minute": 2, "dollars_per_day": "0.5"},
        }  # fmt: skip
        made = await admin(app, "POST", "/v1/keys", body)
        secret = made.json.pop("key")
        key_id, begins = made.json["id"], secret[:16]
        told = {
            "id": key_id, "object": "key", "name": "app", "owner": "team", "state": "active", "models": ["m"],
            "tiers": ["embedded"], "limits": {"requests_per_minute": 2, "dollars_per_day": "0.5"},
            "created": made.json["created"], "expires": "2099-01-31T00:00:00Z", "revoked": None,
            "secrets": [{"begins": begins, "expires": None}],
        }  # fmt: skip
        assert made.json == {**told, "key": secret}
        assert (made.status, made.headers["cache-control"]) == (200, "no-store")
        assert (await admin(app, "GET", "/v1/keys")).json == {"object": "list", "data": [told]}
        assert (await admin(app, "GET", f"/v1/keys/{key_id}")).json == told
        answered = await chat(app, secret)
        assert (answered.status, answered.headers["x-ratelimit-remaining-requests"]) == (200, "1")
        assert (await chat(app, secret, model="n")).status == 404
        assert (await chat(app, secret)).status == 200
        limited = await chat(app, secret)
        assert (limited.status, limited.headers["x-ratelimit-remaining-requests"]) == (429, "0")
        assert limited.headers["x-should-retry"] == "true"
        revoked = await admin(app, "DELETE", f"/v1/keys/{key_id}")
        assert (revoked.json["state"], revoked.json["secrets"]) == ("revoked", [])
        assert (await chat(app, secret)).status == 401
        assert (await admin(app, "DELETE", f"/v1/keys/{key_id}")).error["code"] == "key_not_found"

    run(story)


def test_a_rotated_key_keeps_what_it_has_used(tmp_path: Path) -> None:
    async def story() -> None:
        app, _ = site(tmp_path)
        made = (await admin(app, "POST", "/v1/keys", {"limits": {"requests_per_minute": 3}})).json
        assert (await chat(app, made["key"])).status == 200
        rotated = (await admin(app, "POST", f"/v1/keys/{made['id']}/rotate", {"overlap": "1h"})).json
        assert len(rotated["secrets"]) == 2
        statuses = [(await chat(app, key)).status for key in (rotated["key"], made["key"], rotated["key"])]
        assert statuses == [200, 200, 429]
        at_once = (await admin(app, "POST", f"/v1/keys/{made['id']}/rotate", {"overlap": "0s"})).json
        assert [(await chat(app, each["key"])).status for each in (made, at_once)] == [401, 429]

    run(story)


def test_what_is_asked_wrongly_is_told(tmp_path: Path) -> None:
    async def story() -> None:
        app, _ = site(tmp_path)
        for body, param, text in (
            ({"models": ["none"]}, "models", "There is no model 'none'. Served here: m, n."),
            ({"tiers": ["moon"]}, "tiers", "'moon' is no tier; choose of embedded,"),
            ({"expires": "soon"}, "expires", "'soon' is no day; write 2027-01-31"),
            ({"expires": "1999-01-01"}, "expires", "'1999-01-01' is over; write a day or a moment to come"),
            ({"name": "two\nlines"}, "name", "has characters that cannot be shown"),
            ({"owner": "x" * 201}, "owner", "it has 201 characters; write at most 200"),
            ({"limits": {"requests_per_minute": 0}}, "limits", "Expected 'int' >= 1"),
            ({"limits": {"dollars_per_day": "much"}}, "limits", "'much' is not an amount of dollars"),
            ({"limits": {"burst": "1ms"}}, "limits", "it must be from 1s to 1h"),
            ({"limits": {"requests": 1}}, "limits", "unknown field 'requests'"),
        ):
            error = (await admin(app, "POST", "/v1/keys", body)).error
            assert error["param"] == param
            assert text in error["message"]
        assert (await admin(app, "POST", "/v1/keys", {"nmae": "x"})).status == 400
        for method, path in (("GET", "/v1/keys/none"), ("DELETE", "/v1/keys/none"), ("POST", "/v1/keys/none/rotate")):
            assert (await admin(app, method, path, b"{}")).error["code"] == "key_not_found"
        assert (await admin(app, "GET", "/v1/keys")).json["data"] == []

    run(story)


def test_a_server_without_a_store_says_so() -> None:
    async def story() -> None:
        call = await ask(App(make_service(FakeUpstream(), admin_keys=("admin",))), "GET", "/v1/keys", **ADMIN)
        assert (call.status, call.error["code"]) == (404, "no_key_store")

    run(story)


def test_a_key_sees_the_models_that_it_may_ask_for(tmp_path: Path) -> None:
    async def story() -> None:
        app, _ = site(tmp_path)
        secret = (await admin(app, "POST", "/v1/keys", {"models": ["n"]})).json["key"]
        seen = await ask(app, "GET", "/v1/models", authorization=f"Bearer {secret}")
        assert [each["id"] for each in seen.json["data"]] == ["n"]
        for method, path, body in (
            ("GET", "/v1/models/m", b""),
            ("POST", "/tokenize", {"model": "m", "prompt": "x"}),
            ("POST", "/detokenize", {"model": "m", "tokens": [1]}),
            ("POST", "/v1/messages/count_tokens", {"model": "m", "messages": [{"role": "user", "content": "x"}]}),
            ("POST", "/v1/responses/input_tokens", {"model": "m", "input": "x"}),
            ("POST", "/v1/embeddings", {"model": "m", "input": "x"}),
        ):
            refused = await ask(app, method, path, body, authorization=f"Bearer {secret}", **JSON)
            assert refused.status == 404, path
            assert "The model 'm' does not exist. Served here: 'n'." in refused.json["error"]["message"]

    run(story)
