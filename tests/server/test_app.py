import asyncio
import logging
from typing import Any

import pytest

from servery.server.app import App
from servery.server.routes import ROUTES
from servery.upstream.upstream import Chunk, Health
from servery.wire.errors import invalid, rate_limited
from tests.server.asgi import ask, start
from tests.server.fakes import FakeUpstream, make_app, make_service

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
CHAT_PATH = "/v1/chat/completions"


def test_every_route_but_the_probes_needs_a_key() -> None:
    async def story() -> None:
        app = make_app(FakeUpstream(), api_keys=("secret",))
        others = [route for route in ROUTES if not route.path.startswith("/dashboard")]  # which is its own door
        without = {route.path: (await ask(app, route.method, route.path)).status for route in others}

        assert {path for path, status in without.items() if status != 401} == {"/health", "/ready", "/ping", "/version"}
        assert (await ask(app, "GET", "/nowhere")).status == 401
        assert (await ask(app, "GET", "/v1/models", authorization="Bearer secret")).status == 200

    asyncio.run(story())


@pytest.mark.parametrize(
    "given", ["Bearer wrong", "Bearer", "Bearer ", "Basic secret", "secret", "Bearer secret2", "Bearer secre"]
)
def test_a_wrong_key_is_refused_and_never_repeated(given: str, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        call = await ask(make_app(FakeUpstream(), api_keys=("secret",)), "GET", "/v1/models", authorization=given)

        assert (call.status, call.error["code"]) == (401, "invalid_api_key")
        assert call.headers["www-authenticate"] == "Bearer"
        assert "secre" not in call.body.decode() + caplog.text

    with caplog.at_level(logging.DEBUG):
        asyncio.run(story())


def test_any_of_several_keys_is_accepted() -> None:
    async def story() -> None:
        app = make_app(FakeUpstream(), api_keys=("one", "two"))
        for given in ("Bearer one", "bearer two"):
            assert (await ask(app, "GET", "/v1/models", authorization=given)).status == 200

    asyncio.run(story())


def test_an_unknown_path_is_a_json_404_with_the_nearest_one() -> None:
    async def story() -> None:
        call = await ask(make_app(FakeUpstream()), "POST", "/v1/chat/completion")

        assert (call.status, call.error["code"]) == (404, "not_found")
        assert call.error["message"].endswith("Did you mean '/v1/chat/completions'?")
        assert (await ask(make_app(FakeUpstream()), "GET", "/v1/models/{id}")).status == 404

    asyncio.run(story())


@pytest.mark.parametrize(
    ("path", "allowed"), [(CHAT_PATH, "POST"), ("/health", "GET, HEAD"), ("/v1/models/m", "DELETE, GET, HEAD")]
)
def test_a_wrong_method_is_a_json_405_with_allow(path: str, allowed: str) -> None:
    async def story() -> None:
        call = await ask(make_app(FakeUpstream()), "PUT", path)

        assert (call.status, call.headers["allow"]) == (405, allowed)
        assert call.error["code"] == "method_not_allowed"

    asyncio.run(story())


def test_a_sane_request_id_is_echoed_and_another_replaced() -> None:
    async def story() -> None:
        app = make_app(FakeUpstream())
        sane = await ask(app, "GET", "/health", x_request_id="trace-1:a.b_c")
        others = [await ask(app, "GET", "/health", x_request_id=bad) for bad in ("", "a b", "a\nb", "x" * 129)]

        assert sane.headers["x-request-id"] == "trace-1:a.b_c"
        made = {call.headers["x-request-id"] for call in others}
        assert len(made) == 4
        assert all(made_id.startswith("req_") for made_id in made)

    asyncio.run(story())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"content_type": "application/json"}, 200),
        ({"content_type": 'Application/JSON; charset="UTF-8"'}, 200),
        ({"content_type": "application/x-www-form-urlencoded"}, 415),
        ({"content_type": "application/json; charset=latin-1"}, 415),
        ({"content_type": "application/json", "content_encoding": "gzip"}, 415),
    ],
)
def test_a_body_must_be_plain_json(headers: dict[str, str], status: int) -> None:
    async def story() -> None:
        call = await ask(make_app(FakeUpstream(Chunk(data=b"{}"))), "POST", CHAT_PATH, CHAT, **headers)
        assert call.status == status
        assert status == 200 or call.error["code"] == "unsupported_media_type"

    asyncio.run(story())


def test_a_declared_body_far_over_the_limit_or_not_yet_sent_is_refused_unread() -> None:
    async def story() -> None:
        app = make_app(FakeUpstream(), max_body_bytes=100)
        far = [start(app, "POST", CHAT_PATH, None, content_length=length) for length in ("1601", "9" * 30)]
        asking = start(app, "POST", CHAT_PATH, None, content_length="101", expect="100-continue")
        await asyncio.gather(*(call.task for call in (*far, asking)))

        for call in (*far, asking):
            assert (call.status, call.error["code"], call.headers["connection"]) == (413, "request_too_large", "close")

    asyncio.run(story())


def test_a_declared_body_over_the_limit_that_is_under_way_is_thrown_away_first() -> None:
    """Closing while the client is still sending resets the connection, and the client never reads why."""

    async def story() -> None:
        call = start(make_app(FakeUpstream(), max_body_bytes=100), "POST", CHAT_PATH, None, content_length="101")
        call.feed(b"x" * 60, more=True)
        await asyncio.sleep(0)
        assert call.status is None
        call.feed(b"x" * 41)
        await call.task

        assert (call.status, "connection" in call.headers) == (413, False)

    asyncio.run(story())


def test_an_undeclared_body_over_the_limit_is_thrown_away_and_refused() -> None:
    async def story() -> None:
        app = make_app(FakeUpstream(), max_body_bytes=100)
        ending = start(app, "POST", CHAT_PATH, b"x" * 101)
        endless = start(app, "POST", CHAT_PATH, None)
        for _ in range(17):
            endless.feed(b"x" * 100, more=True)
        await asyncio.gather(ending.task, endless.task)

        assert [call.status for call in (ending, endless)] == [413, 413]
        assert ("connection" in ending.headers, endless.headers["connection"]) == (False, "close")

    asyncio.run(story())


def test_a_body_that_does_not_come_is_a_408() -> None:
    async def story() -> None:
        call = start(make_app(FakeUpstream(), body_timeout_s=0.01), "POST", CHAT_PATH, None)
        call.feed(b'{"model": ', more=True)
        await call.task

        assert (call.status, call.error["code"], call.headers["connection"]) == (408, "request_timeout", "close")

    asyncio.run(story())


def test_a_client_that_leaves_while_sending_gets_nothing() -> None:
    async def story() -> None:
        service = make_service(FakeUpstream())
        call = start(App(service), "POST", CHAT_PATH, None)
        call.feed(b'{"model": ', more=True)
        call.disconnect()
        await call.task

        assert (call.status, call.body) == (None, b"")
        assert 'route="/v1/chat/completions",status="499"' in service.metrics.render().decode()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (invalid("no", "n"), 400, {}),
        (rate_limited("full", 2.0), 429, {"retry-after": "2", "retry-after-ms": "2000"}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_before_the_first_piece_is_a_status(
    error: Exception, status: int, headers: dict[str, str], stream: bool
) -> None:
    async def story() -> None:
        upstream = FakeUpstream(Chunk(prompt_tokens=3), error)
        call = await ask(make_app(upstream), "POST", CHAT_PATH, {**CHAT, "stream": stream})

        assert (call.status, call.headers["content-type"]) == (status, "application/json")
        assert call.headers.items() >= headers.items()
        assert upstream.closed == 1

    asyncio.run(story())


def test_a_defect_is_a_500_that_is_logged_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        call = await ask(make_app(FakeUpstream(KeyError("private"))), "POST", CHAT_PATH, CHAT)

        assert (call.status, call.error["code"]) == (500, "internal_error")
        assert "private" not in call.body.decode()

    asyncio.run(story())
    assert "KeyError: 'private'" in caplog.text


def test_requests_are_logged_without_what_they_say(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        upstream = FakeUpstream(
            Chunk(tokens=2, prompt_tokens=7, cached_tokens=4), Chunk(data=b"{}", finish_reason="stop")
        )
        app = make_app(upstream, api_keys=("secret",))
        chat = {"model": "m", "messages": [{"role": "user", "content": "a private matter"}]}
        await ask(app, "POST", CHAT_PATH, chat, authorization="Bearer secret", x_request_id="r1")
        await ask(app, "GET", "/not\nhere", authorization="Bearer secret")

    with caplog.at_level(logging.INFO):
        asyncio.run(story())
    first, second = [record.getMessage() for record in caplog.records]
    assert first.startswith("POST /v1/chat/completions 200 r1 m: 7 prompt tokens (4 cached), 2 generated, first after")
    assert ", stop, " in first
    assert second.startswith("GET '/not\\nhere' 404 ")
    assert "private" not in caplog.text
    assert "secret" not in caplog.text


def test_probes_are_logged_only_when_debugging_even_if_they_fail(caplog: pytest.LogCaptureFixture) -> None:
    """A restart of the engine takes many probes, and says so by itself."""

    async def story() -> None:
        upstream = FakeUpstream()
        upstream.state = Health(False, "its engine is loading", 0.0, is_alive=False)
        app = make_app(upstream, api_keys=("secret",))
        for path in ("/health", "/ready", "/v1/models"):
            await ask(app, "GET", path)

    with caplog.at_level(logging.DEBUG):
        asyncio.run(story())
    levels = [
        (record.getMessage().split()[:3], record.levelname)
        for record in caplog.records
        if "GET" in record.msg % record.args
    ]
    assert levels == [
        (["GET", "/health", "503"], "DEBUG"),
        (["GET", "/ready", "503"], "DEBUG"),
        (["GET", "/v1/models", "401"], "INFO"),
    ]


def test_other_protocols_are_refused() -> None:
    async def story() -> None:
        async def never(*_: object) -> Any:
            raise AssertionError("nothing is received or sent")

        with pytest.raises(ValueError, match="'websocket'"):
            await make_app(FakeUpstream())({"type": "websocket"}, never, never)

    asyncio.run(story())
