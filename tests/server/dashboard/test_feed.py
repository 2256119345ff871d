import asyncio
import contextlib
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from servery.config.types import LedgerConfig
from servery.server.dashboard import feed as feed_module
from servery.server.dashboard.figures import engine_figures
from servery.server.dashboard.live import LiveWindow
from servery.server.dashboard.peers import Own, Peers
from servery.telemetry.ceilings import Ceilings, utilization
from servery.telemetry.ledger.writer import Ledger
from tests.server.asgi import ask, start
from tests.server.dashboard.board import WALL_S, Board, feed_of, run
from tests.telemetry.ledger.rows import ROW
from tests.telemetry.test_metrics import INFO, STATS

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def test_a_snapshot_tells_what_the_metrics_tell() -> None:
    async def story() -> None:
        board = Board()
        for _ in range(3):
            assert (
                await ask(board.app, "POST", "/v1/chat/completions", CHAT, content_type="application/json")
            ).status == 200
        told = (await board.get("/api/snapshot")).json
        total = told["summaries"]["m"]
        assert (total["exchanges"], total["completed"], total["prompt_tokens"], total["generated_tokens"]) == (
            3,
            3,
            9,
            6,
        )
        assert told["summaries"][""] == total
        assert [each["outcome"] for each in told["exchanges"]] == ["completed"] * 3
        assert set(told["deployments"]) == set(told["models"]) == {"m"}
        metrics = board.service.metrics
        assert metrics.prompt.read() == {("m",): 9}
        assert metrics.generated.read() == {("m",): 6}
        await board.close()

    run(story())


def test_the_first_snapshot_has_the_keys() -> None:
    async def story() -> None:
        board = Board(admin_keys=("admin",), api_keys=("a", "b"))
        told = (await board.get("/api/snapshot", authorization="Bearer admin")).json
        assert {each["id"] for each in told["keys"]} == {each.key for each in board.service.keys.callers}
        assert len(told["keys"]) == 3
        await board.close()

    run(story())


def test_who_looks_gets_everything_once_and_then_what_is_new_until_the_server_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        board = Board()
        board.dashboard.feed._tick_s = 0.01
        call = start(board.app, "GET", "/dashboard/api/feed", host="127.0.0.1")
        await call.until(b"event: tick")
        await ask(board.app, "POST", "/v1/chat/completions", CHAT, content_type="application/json")
        await call.until(b'"outcome":"completed"')
        board.service.lifecycle.is_draining = True
        await call.task
        events = feed_of(call)
        assert [name for name, _ in events[:2]] == ["snapshot", "tick"]
        assert {name for name, _ in events[1:]} == {"tick"}
        assert [data["number"] for _, data in events] == sorted({data["number"] for _, data in events})
        assert sum(len(data["exchanges"]) for _, data in events) == 1
        assert call.headers["content-security-policy"].startswith("default-src 'none'")
        await board.close()

    run(story())


def test_nobody_looks_and_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "LINGER_S", 0.03)

    async def story() -> None:
        board = Board()
        feed = board.dashboard.feed
        feed._tick_s = 0.01
        assert feed._task is None
        call = start(board.app, "GET", "/dashboard/api/feed", host="127.0.0.1")
        await call.until(b"event: tick")
        task = feed._task
        assert task is not None
        call.disconnect()
        await call.task
        async with asyncio.timeout(60):
            await task
        assert (feed._beat, feed._live, feed._viewers) == (None, None, 0)
        again = start(board.app, "GET", "/dashboard/api/feed", host="127.0.0.1")
        await again.until(b"event: tick")
        again.disconnect()
        await again.task
        await board.close()

    run(story())


def test_a_session_that_ends_ends_its_feed() -> None:
    async def story() -> None:
        board = Board(admin_keys=("admin",))
        board.dashboard.feed._tick_s = 0.01
        cookie = await board.login("admin")
        call = start(board.app, "GET", "/dashboard/api/feed", cookie=cookie)
        await call.until(b"event: tick")
        await board.post("logout", cookie=cookie)
        async with asyncio.timeout(60):
            await call.task
        assert feed_of(call)[-1] == ("over", {})
        await board.close()

    run(story())


def test_a_key_that_is_taken_away_ends_the_feed_that_it_opened() -> None:
    """Also where a program sends the key itself, and has no session to leave."""

    async def story() -> None:
        board = Board(admin_keys=("admin",))
        board.dashboard.feed._tick_s = 0.01
        call = start(board.app, "GET", "/dashboard/api/feed", authorization="Bearer admin")
        await call.until(b"event: tick")
        board.service.admin.renew(("other",))
        async with asyncio.timeout(5):
            await call.task
        assert feed_of(call)[-1] == ("over", {})
        await board.close()

    run(story())


def test_as_many_may_look_as_are_allowed_and_one_more_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "MOST_VIEWERS", 1)

    async def story() -> None:
        board = Board()
        board.dashboard.feed._tick_s = 0.01
        call = start(board.app, "GET", "/dashboard/api/feed", host="127.0.0.1")
        await call.until(b"event: tick")
        refused = await board.get("/api/feed")
        assert (refused.status, refused.error["code"]) == (503, "too_many_viewers")
        call.disconnect()
        await call.task
        await board.close()

    run(story())


def test_a_view_that_fails_is_told_and_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        board = Board()
        feed = board.dashboard.feed
        feed._tick_s = 0.01
        monkeypatch.setattr(feed, "_figures", lambda *given: 1 / 0)
        refused = await board.get("/api/snapshot")
        assert (refused.status, refused.error["code"]) == (503, "no_view")
        monkeypatch.undo()
        assert (await board.get("/api/snapshot")).status == 200
        await board.close()

    run(story())


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("range=2y", 400, "'range' is '2y'; it must be one of 1h, 24h, 7d."),
        ("model=nobody", 404, "nobody"),
        ("rage=1h", 400, "Unknown parameter: 'rage'."),
    ],
)
def test_a_history_that_is_not_there_is_refused_in_words(query: str, status: int, text: str) -> None:
    async def story() -> None:
        board = Board()
        call = await board.get(f"/api/history?{query}")
        assert call.status == status
        assert text in call.error["message"]

    run(story())


def test_the_past_is_there_without_a_ledger_as_far_as_memory_goes() -> None:
    async def story() -> None:
        board = Board()
        row = ROW._replace(at_s=board.wall_s - 1800, outcome="completed", served_model="m:adapter", error=None)
        board.settled.take([row, row._replace(id="b", served_model="other"), row._replace(id="c", at_s=1.0)])
        told = (await board.get("/api/history?range=1h&model=m")).json
        assert (told["source"], told["summary"]["exchanges"], len(told["points"])) == ("memory", 1, 1)
        assert (await board.get("/api/history?range=24h")).json["summary"]["exchanges"] == 2

    run(story())


def test_what_ended_last_is_shown_though_it_was_long_before_the_start(tmp_path: Path) -> None:
    """A page that was opened in the morning said that there had been no exchange."""

    async def story() -> None:
        place = LedgerConfig(path=tmp_path / "ledger.sqlite")
        ledger = Ledger(place)
        ledger.start()
        for at in range(60):
            ledger.add(ROW._replace(id=f"r{at}", at_s=WALL_S - 9000 + at, served_model="m"))
        ledger.close()
        board = Board(ledger=place)
        told = (await board.get("/api/snapshot")).json
        assert [each["id"] for each in told["exchanges"]] == [f"r{at}" for at in range(10, 60)]
        assert (told["summaries"][""]["exchanges"], told["points"][""]) == (0, [])
        await board.close()

    run(story())


def test_what_steps_come_to_of_the_machine_is_told_once_the_machine_is_known() -> None:
    rates = msgspec.structs.replace(STATS, bytes_per_s=1e9, operations_per_s=4e9)
    ceilings = (None, Ceilings(read_bytes_per_s=4e9, operations_per_s={INFO.dtype: 8e9}))
    told = [engine_figures(INFO, rates, None, partial(utilization, ceilings=each)) for each in ceilings]
    assert [(each["is_measured"], each["mbu"], each["mfu"]) for each in told] == [
        (False, None, None),
        (True, 0.25, 0.5),
    ]


def test_tokens_are_counted_by_worker_and_one_that_is_started_again_takes_nothing_back() -> None:
    live = LiveWindow(["m"])
    live.turn(1000.0, ["m"])
    for at_s, counted in (
        (1000.0, {0: {"m": 0.0}, 1: {"m": 500.0}}),
        (1002.0, {0: {"m": 20.0}, 1: {"m": 540.0}}),  # 30 a second
        (1004.0, {0: {"m": 40.0}}),  # 10: the other one does not answer
        (1006.0, {0: {"m": 40.0}, 1: {"m": 6.0}}),  # it was started again: nothing is known of what it did
    ):
        live.count(at_s, counted)
    live.turn(1007.0, ["m"])
    live.add(
        [ROW._replace(id=str(at), at_s=at, e2e_s=0.5, served_model="m") for at in (1000.0, 1002.0, 1004.0, 1006.0)]
    )
    points = live.whole()["points"]["m"]
    assert [point[-1] for point in points] == [None, 30.0, 10.0, 0.0]
    assert live.whole()["points"][""] == points


def test_workers_tell_each_other_what_they_did_and_who_does_not_answer_is_missing(tmp_path: Path) -> None:
    def own(name: str) -> Any:
        def part(since: int) -> Own:
            return Own(
                rows=[ROW._replace(id=f"{name}{since}")], count=7, generated={"m": 1.5}, deployments={}, in_flight=2
            )

        return part

    async def story() -> None:
        peers = [Peers(tmp_path, number, 3, own(f"w{number}-")) for number in range(3)]
        async with contextlib.AsyncExitStack() as stack:
            for each in peers[:2]:
                await stack.enter_async_context(await each.listen())
            found = await peers[0].ask({1: 5})
            reader, writer = await asyncio.open_unix_connection(tmp_path / "board-1")
            writer.write(b"what?\n")
            assert await reader.read() == b""
            writer.close()
        assert list(found) == [1]
        assert [row.id for row in found[1].rows] == ["w1-5"]
        assert (found[1].count, found[1].generated, found[1].in_flight) == (7, {"m": 1.5}, 2)

    run(story())


def test_a_server_without_a_dashboard_says_so() -> None:
    async def story() -> None:
        board = Board()
        board.service.dashboard = None
        call = await board.get("/api/session")
        assert (call.status, call.error["code"]) == (404, "no_dashboard")

    run(story())
