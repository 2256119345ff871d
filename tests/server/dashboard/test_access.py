from pathlib import Path

import pytest

from servery.server.dashboard import ended
from servery.server.dashboard.assets import assets
from servery.server.dashboard.attempts import MOST_FAILURES, MOST_FAILURES_OF_ALL, WINDOW_S, Attempts
from servery.server.dashboard.role import Role
from servery.server.dashboard.session import LASTS_S
from servery.server.routes import ROUTES
from servery.server.workers import Post
from tests.server.asgi import ask
from tests.server.dashboard.board import PAGE, WALL_S, Board, run

ADMIN, VIEWER = "admin-key", "viewer-key"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
SEEN = ("/api/snapshot", "/api/feed", "/api/history")


def test_everything_is_closed_to_who_has_no_session_and_the_page_says_so() -> None:
    async def story() -> None:
        board = Board(admin_keys=(ADMIN,))
        for path in SEEN:
            refused = await board.get(path)
            assert (refused.status, refused.error["code"]) == (401, "login_required"), path
        refused = await board.post("chat", CHAT)
        assert (refused.status, refused.error["code"]) == (401, "login_required")
        told = (await board.get("/api/session")).json
        assert (told["role"], told["asks_for_key"]) == (None, True)

    run(story())


def test_of_its_routes_only_the_page_itself_is_for_everybody() -> None:
    async def story() -> None:
        board = Board(admin_keys=(ADMIN,), api_keys=("user",))
        routes = [route for route in ROUTES if route.path.startswith("/dashboard")]
        statuses = {
            route.path: (await ask(board.app, route.method, route.path, authorization="Bearer user")).status
            for route in routes
        }
        assert {path: status for path, status in statuses.items() if status < 400} == {
            "/dashboard": 200,
            "/dashboard/": 308,
            "/dashboard/api/session": 200,  # which says that there is none
        }
        assert {status for status in statuses.values() if status >= 400} == {401, 403, 404}  # 404: no such file

    run(story())


def test_a_session_is_a_cookie_that_scripts_and_other_sites_never_have() -> None:
    async def story() -> None:
        board = Board(admin_keys=(ADMIN,))
        call = await board.post("login", {"key": ADMIN})
        whole = call.headers["set-cookie"]
        assert whole.endswith("; Path=/dashboard; Max-Age=43200; HttpOnly; SameSite=Strict")
        behind = await board.post("login", {"key": ADMIN}, x_forwarded_proto="https")
        assert behind.headers["set-cookie"].endswith("; HttpOnly; SameSite=Strict; Secure")
        assert ADMIN not in whole + call.body.decode()
        cookie = whole.partition(";")[0]
        assert (await board.get("/api/session", cookie=cookie)).json["role"] == "admin"
        assert (await board.get("/api/history", cookie=cookie)).status == 200
        assert (await board.post("chat", CHAT, cookie=cookie)).status == 200
        assert (await board.get("/api/history", cookie=cookie, sec_fetch_site="cross-site")).error[
            "code"
        ] == "cross_site"

    run(story())


def test_who_has_a_viewer_key_may_look_and_not_act() -> None:
    async def story() -> None:
        board = Board(admin_keys=(ADMIN,), viewer_keys=(VIEWER,), api_keys=("user",))
        cookie = await board.login(VIEWER)
        assert (await board.get("/api/session", cookie=cookie)).json["may_ask"] is False
        assert (await board.get("/api/history", cookie=cookie)).status == 200
        refused = await board.post("chat", CHAT, cookie=cookie)
        assert (refused.status, refused.error["code"]) == (403, "viewer_only")
        assert (await ask(board.app, "GET", "/v1/config", authorization=f"Bearer {VIEWER}")).status == 401
        assert (await ask(board.app, "POST", "/v1/chat/completions", CHAT, x_api_key=VIEWER)).status == 401
        assert (await board.get("/api/history", authorization=f"Bearer {VIEWER}")).status == 200
        assert (await board.get("/api/history", authorization="Bearer user")).status == 401

    run(story())


def test_a_session_ends_by_time_by_leaving_and_with_its_key() -> None:
    async def story() -> None:
        board = Board(admin_keys=(ADMIN, "other"))
        first, second, third = [await board.login(ADMIN), await board.login(ADMIN), await board.login("other")]

        async def roles() -> list[str | None]:
            calls = [await board.get("/api/session", cookie=each) for each in (first, second, third)]
            return [call.json["role"] for call in calls]

        assert await roles() == ["admin"] * 3
        out = await board.post("logout", cookie=first)
        assert out.headers["set-cookie"].startswith("servery_dashboard_8000=; Path=/dashboard; Max-Age=0;")
        assert await roles() == [None, "admin", "admin"]
        board.service.admin.renew(["other"])
        assert await roles() == [None, None, "admin"]
        board.wall_s += LASTS_S[Role.ADMIN]
        assert await roles() == [None, None, None]

    run(story())


def test_a_restart_ends_no_session_and_what_is_forged_is_none() -> None:
    async def story() -> None:
        cookie = await Board(admin_keys=(ADMIN,), viewer_keys=(VIEWER,)).login(ADMIN)
        board = Board(admin_keys=(ADMIN,), viewer_keys=(VIEWER,))
        assert (await board.get("/api/session", cookie=f"other=1; {cookie}")).json["role"] == "admin"
        viewer = await board.login(VIEWER)
        name, _, note = viewer.partition("=")
        later = note.replace(str(int(WALL_S + LASTS_S[Role.VIEWER])), str(int(WALL_S) * 2))
        for forged in (
            f"{name}={note.replace('viewer', 'admin', 1)}", f"{name}={later}", cookie[:-1], f"{cookie}0",
            f"{name}=", f"{name}={'a' * 5000}", "servery_dashboard_8000", "\x7f;=;", f"{cookie[:-2]}zz",
        ):  # fmt: skip
            assert (await board.get("/api/session", cookie=forged)).json["role"] is None, forged
        assert later != note

    run(story())


def test_a_session_that_was_left_is_over_at_every_worker(tmp_path: Path) -> None:
    async def story() -> None:
        one, other = (Board(admin_keys=(ADMIN,), post=Post(number, 2, tmp_path, 0)) for number in range(2))
        left, kept = await one.login(ADMIN), await other.login(ADMIN)
        await one.post("logout", cookie=left)
        taken_over = Board(admin_keys=(ADMIN,), post=Post(0, 2, tmp_path, 0))
        for board in (one, other, taken_over):
            roles = [(await board.get("/api/session", cookie=each)).json["role"] for each in (left, kept)]
            assert roles == [None, "admin"]

    run(story())


def test_sessions_that_were_left_are_forgotten_when_their_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ended, "_MOST", 2)
    now_s = WALL_S
    left = ended.Ended(lambda: now_s, tmp_path)
    left.add("a", WALL_S + 10)
    left.add("b", WALL_S + 20)
    now_s = WALL_S + 15
    left.add("c", WALL_S + 30)
    assert [each in left for each in "abcd"] == [False, True, True, False]
    assert {path.name for path in tmp_path.iterdir()} == {"left-b", "left-c"}


def test_two_servers_on_one_host_have_a_cookie_each() -> None:
    """A browser sends a host's cookies to all of its ports."""

    async def story() -> None:
        one, other = Board(admin_keys=(ADMIN,), port=8000), Board(admin_keys=("other",), port=8001)
        both = f"{await one.login(ADMIN)}; {await other.login('other')}"
        for board in (one, other):
            assert (await board.get("/api/session", cookie=both)).json["role"] == "admin"
        out = await one.post("logout", cookie=both)
        assert out.headers["set-cookie"].startswith("servery_dashboard_8000=;")
        assert (await other.get("/api/session", cookie=both)).json["role"] == "admin"

    run(story())


def test_a_login_that_is_too_large_is_told_its_own_limit() -> None:
    async def story() -> None:
        board = Board(admin_keys=(ADMIN,), max_body_bytes=1 << 20)
        refused = await board.post("login", {"key": "k" * 5000})
        assert (refused.status, refused.error["code"]) == (413, "request_too_large")
        assert refused.error["message"] == "The request body is larger than the 4096 bytes that a login may have."

    run(story())


@pytest.mark.parametrize("beside", ['theme={"a": "b"}', "a b=c", "path=/x", "caf\xe9=1", "bare", "=", ""])
def test_cookies_that_others_of_this_host_write_hide_no_session(beside: str) -> None:
    async def story() -> None:
        board = Board(admin_keys=(ADMIN,))
        cookie = await board.login(ADMIN)
        for both in (f"{beside}; {cookie}", f"{cookie}; {beside}", f"{beside};{cookie}"):
            assert (await board.get("/api/session", cookie=both)).json["role"] == "admin", both

    run(story())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec_fetch_site": "same-origin", "origin": "https://behind.a.proxy"}, 200),
        ({"origin": "http://127.0.0.1:8000"}, 200),
        ({"x_servery_dashboard": "0"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"content_type": "text/plain"}, 415),
    ],
)
def test_what_another_site_can_have_a_browser_send_does_nothing(headers: dict[str, str], status: int) -> None:
    async def story() -> None:
        board = Board(admin_keys=(ADMIN,))
        assert (await board.post("login", {"key": ADMIN}, **headers)).status == status
        cookie = await board.login(ADMIN)
        assert (await board.post("chat", CHAT, cookie=cookie, **headers)).status == status

    run(story())


@pytest.mark.parametrize(
    ("options", "headers", "peer", "role"),
    [
        ({}, {}, "127.0.0.1", "local"),
        ({}, {"host": "localhost:8000"}, "127.0.0.1", "local"),
        ({}, {"host": "[::1]:8000"}, "::1", "local"),
        ({}, {"host": "evil.example"}, "127.0.0.1", None),  # a name that was made to lead here
        ({}, {"x_forwarded_for": "10.1.1.1"}, "127.0.0.1", None),
        ({}, {}, "10.1.1.1", None),
        ({"host": "0.0.0.0"}, {}, "127.0.0.1", None),
        ({"api_keys": ("user",)}, {}, "127.0.0.1", None),
        ({"api_keys": ("user",)}, {"authorization": "Bearer user"}, "127.0.0.1", None),
        ({"admin_keys": (ADMIN,)}, {}, "127.0.0.1", None),
        ({"viewer_keys": (VIEWER,)}, {}, "127.0.0.1", None),
    ],
)
def test_without_any_key_it_is_for_who_sits_at_the_machine(
    options: dict[str, object], headers: dict[str, str], peer: str, role: str | None
) -> None:
    async def story() -> None:
        board = Board(**options)
        given = {"host": "127.0.0.1:8000", **headers}
        told = (await ask(board.app, "GET", "/dashboard/api/session", peer=peer, **given)).json
        assert told["role"] == role
        if role is None:
            assert told["asks_for_key"] is ("admin_keys" in options or "viewer_keys" in options)
            assert "key" in told["reason"]
        status = (await ask(board.app, "POST", "/dashboard/api/chat", CHAT, peer=peer, **{**PAGE, **headers})).status
        assert (status == 200) is (role is not None)

    run(story())


def test_keys_are_not_tried_out_by_the_thousand() -> None:
    async def story() -> None:
        board = Board(admin_keys=(ADMIN,))
        tries = [await board.post("login", {"key": f"guess {number}"}) for number in range(MOST_FAILURES)]
        assert [(call.status, call.error["code"]) for call in tries] == [(401, "invalid_key")] * MOST_FAILURES
        refused = await board.post("login", {"key": ADMIN})
        assert (refused.status, refused.error["code"]) == (429, "too_many_attempts")
        assert 1 <= int(refused.headers["retry-after"]) <= WINDOW_S + 1

    run(story())


def test_nor_are_they_as_bearer_tokens() -> None:
    async def story() -> None:
        board = Board(admin_keys=(ADMIN,))
        cookie = await board.login(ADMIN)
        wrong, right = {"authorization": "Bearer guess"}, {"authorization": f"Bearer {ADMIN}"}
        paths = ["/api/snapshot", "/api/session", "/api/history", "/api/feed", "/api/snapshot"]
        for _ in range(2 * MOST_FAILURES):  # what a proxy sends beside the page's cookie is no attempt
            assert (await board.get("/api/history", cookie=cookie, **wrong)).status == 200
        tried = [await board.get(path, **wrong) for path in paths]
        assert [call.status for call in tried] == [401, 200, 401, 401, 401]
        for refused in [await board.get("/api/snapshot", **right), await board.post("login", {"key": ADMIN})]:
            assert (refused.status, refused.error["code"]) == (429, "too_many_attempts")
            assert 1 <= int(refused.headers["retry-after"]) <= WINDOW_S + 1
        told = (await board.get("/api/session", **right)).json
        assert (told["role"], "Too many attempts" in told["reason"]) == (None, True)
        assert (await board.get("/api/history", cookie=cookie)).status == 200

    run(story())


def test_attempts_are_bounded_by_address_and_in_all_and_forgotten_after_a_minute() -> None:
    now = 0.0
    attempts = Attempts(lambda: now)
    for number in range(MOST_FAILURES_OF_ALL // MOST_FAILURES - 1):
        for _ in range(MOST_FAILURES):
            assert attempts.wait_s(f"a{number}") == 0.0
            attempts.fail(f"a{number}")
    assert (attempts.wait_s("a0"), attempts.wait_s("fresh")) == (WINDOW_S, 0.0)
    for _ in range(MOST_FAILURES - 1):
        attempts.fail("slips")
    attempts.succeed("slips")
    attempts.fail("slips")
    assert attempts.wait_s("fresh") == WINDOW_S
    now = WINDOW_S - 1
    assert attempts.wait_s("fresh") == 1.0
    now = WINDOW_S
    assert (attempts.wait_s("a0"), attempts.wait_s("fresh")) == (0.0, 0.0)


def test_logins_are_written_down_with_who_and_from_where_and_never_the_key(caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        board = Board(admin_keys=(ADMIN,))
        await board.login(ADMIN)
        await board.post("login", {"key": "wrong-secret"})

    caplog.set_level("INFO")
    run(story())
    said = [record.getMessage() for record in caplog.records if "dashboard login" in record.getMessage()]
    assert said[0].endswith("did dashboard login (admin) from 127.0.0.1: done")
    assert said[0].startswith("key_")
    assert said[1] == "nobody did dashboard login () from 127.0.0.1: refused 401 invalid_key"
    assert ADMIN not in caplog.text
    assert "wrong-secret" not in caplog.text


def test_every_file_of_the_page_goes_with_a_policy_that_lets_in_no_other_script() -> None:
    async def story() -> None:
        board = Board(admin_keys=(ADMIN,))
        page = await board.get("")
        assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "default-src 'none'; script-src 'self';" in page.headers["content-security-policy"]
        assert "unsafe" not in page.headers["content-security-policy"]
        for name, known in assets().items():
            call = await board.get(f"/static/{name}")
            assert (call.status, call.body, call.headers["x-content-type-options"]) == (200, known.data, "nosniff")
            assert (await board.get(f"/static/{name}", if_none_match=known.tag)).status == 304
        assert (await board.get("/static/secret")).status == 404
        assert (await board.get("/static/..%2Fpages.py")).status == 404
        moved = await board.get("/")
        assert (moved.status, moved.headers["location"]) == (308, "../dashboard")

    run(story())


def test_the_page_is_light_and_has_no_script_or_style_in_its_markup() -> None:
    known = assets()
    text = known["index.html"].data.decode()
    assert sum(len(each.data) for each in known.values()) < 150_000
    for forbidden in ("<script>", "style=", "onclick", "http:", "https:", "//cdn"):
        assert forbidden not in text
    for name, each in known.items():
        if name.endswith(".js") and name != "uplot.js":
            for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "document.write"):
                assert forbidden not in each.data.decode(), name
