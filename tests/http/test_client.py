import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from servery.http.client import HttpClient
from servery.http.errors import BadRequest, BodyTooLarge, ClientClosed, Disconnected, QueueFull, TimedOut, Unreachable
from servery.http.limits import ClientLimits, Deadlines
from servery.http.pool import PoolStats
from servery.http.timer_wheel import LoopTimers
from tests.http.conftest import Run
from tests.http.raw_server import OK, Peer, RawServer, always, chunk, once, serving, until

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@asynccontextmanager
async def client(limits: ClientLimits | None = None) -> AsyncIterator[HttpClient]:
    client = HttpClient(limits or ClientLimits())
    try:
        yield client
    finally:
        await client.aclose()


async def get(http: HttpClient, server: RawServer, **more: object) -> bytes:
    async with await http.request(server.origin, "GET", "/", **more) as response:  # type: ignore[arg-type]
        return await response.read(1 << 20)


def figures(stats: PoolStats) -> dict[str, int]:
    return {name: getattr(stats, name) for name in ("open", "idle", "waiting", "opened", "reused", "stale")}


# ---- what goes out


def test_a_request_is_one_head_and_its_body(run: Run) -> None:
    async def story() -> None:
        async with serving(always(OK)) as server, client() as http:
            headers = [(b"content-type", b"application/json"), (b"Authorization", b"Bearer k")]
            async with await http.request(server.origin, "POST", "/v1/chat?a=b", headers, b"{}") as response:
                assert (response.status, response.version, await response.read(10)) == (200, "1.1", b"ok")
            [asked] = server.asked
            assert asked.line == b"POST /v1/chat?a=b HTTP/1.1"
            assert asked.headers == [
                (b"host", f"127.0.0.1:{server.port}".encode()),
                (b"content-length", b"2"),
                (b"accept-encoding", b"identity"),
                *headers,
            ]
            assert asked.body == b"{}"

    run(story)


def test_a_body_that_is_made_on_the_way_is_sent_in_chunks(run: Run) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        yield b""
        yield b"two"

    async def story() -> None:
        async with serving(always(OK)) as server, client() as http:
            async with await http.request(server.origin, "POST", "/", body=pieces()) as response:
                assert await response.read(10) == b"ok"
            assert server.asked[0].body == b"onetwo"
            assert server.asked[0].get(b"transfer-encoding") == b"chunked"
            assert await get(http, server) == b"ok"
            assert server.connections == 1

    run(story)


def test_a_large_body_arrives_whole(run: Run) -> None:
    body = bytes(range(256)) * 20_000

    async def story() -> None:
        async with serving(always(OK)) as server, client() as http:
            async with await http.request(server.origin, "POST", "/", body=body) as response:
                assert await response.read(10) == b"ok"
            assert server.asked[0].body == body
            assert figures(http.stats()[0])["idle"] == 1

    run(story)


def test_what_the_bodys_iterator_raises_goes_through(run: Run) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        raise ZeroDivisionError

    async def story() -> None:
        async with serving(always(OK)) as server, client() as http:
            with pytest.raises(ZeroDivisionError):
                await http.request(server.origin, "POST", "/", body=pieces())
            await until(lambda: server.open == 0)
            assert figures(http.stats()[0])["open"] == 0

    run(story)


def test_a_request_that_must_not_be_sent_is_refused_before_connecting(run: Run) -> None:
    async def story() -> None:
        async with serving(always(OK)) as server, client() as http:
            with pytest.raises(BadRequest, match="line break"):
                await http.request(server.origin, "GET", "/", [(b"x", b"a\r\nb: c")])
            assert server.connections == 0

    run(story)


# ---- what comes back


def test_pieces_come_as_they_are_sent(run: Run) -> None:
    read = asyncio.Event

    async def story() -> None:
        told = [read() for _ in range(3)]

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED)
            for word, event in zip((b"one", b"two", b"three"), told, strict=True):
                await peer.send(chunk(word))
                await event.wait()
            await peer.send(chunk(b""))
            await peer.gone()

        async with serving(script) as server, client() as http:
            async with await http.request(server.origin, "GET", "/") as response:
                got = []
                async for piece in response:
                    got.append(piece)
                    told[len(got) - 1].set()
            assert got == [b"one", b"two", b"three"]
            assert figures(http.stats()[0]) == {
                "open": 1,
                "idle": 1,
                "waiting": 0,
                "opened": 1,
                "reused": 0,
                "stale": 0,
            }

    run(story)


def test_headers_keep_their_case_order_and_repetitions(run: Run) -> None:
    async def story() -> None:
        head = b"HTTP/1.1 200 OK\r\nX-A: 1\r\ncontent-length: 0\r\nx-a:  2 \r\nEmpty:\r\n\r\n"
        async with (
            serving(always(head)) as server,
            client() as http,
            await http.request(server.origin, "GET", "/") as response,
        ):
            assert list(response.headers) == [
                (b"X-A", b"1"),
                (b"content-length", b"0"),
                (b"x-a", b"2"),
                (b"Empty", b""),
            ]
            assert response.headers.get(b"x-A") == b"1"
            assert response.headers.get_all(b"X-a") == [b"1", b"2"]
            assert b"Content-Length" in response.headers
            assert response.headers.get(b"none") is None

    run(story)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"")),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", (304, b"")),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK, (200, b"ok")),
        (CHUNKED + b"2;a=b;c=\"d\"\r\nok\r\n0\r\nTrailer: x\r\n\r\n", (200, b"ok")),
        (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", (200, b"ok")),
    ],
)  # fmt: skip
def test_a_kept_connection_carries_every_kind_of_end(run: Run, answer: bytes, expected: tuple[int, bytes]) -> None:
    async def story() -> None:
        async with serving(always(*(answer[i : i + 1] for i in range(len(answer))))) as server, client() as http:
            for _ in range(2):
                async with await http.request(server.origin, "GET", "/") as response:
                    assert (response.status, await response.read(10)) == expected
            assert server.connections == 1

    run(story)


def test_the_answer_to_head_has_no_body(run: Run) -> None:
    async def story() -> None:
        async with serving(always(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")) as server, client() as http:
            for _ in range(2):
                async with await http.request(server.origin, "HEAD", "/") as response:
                    assert (response.status, await response.read(10)) == (200, b"")
            assert server.connections == 1

    run(story)


def test_a_body_may_end_with_its_connection(run: Run) -> None:
    async def story() -> None:
        async with serving(once(b"HTTP/1.0 200 OK\r\n\r\n", b"all ", b"there is")) as server, client() as http:
            assert await get(http, server) == b"all there is"
            assert figures(http.stats()[0])["open"] == 0

    run(story)


def test_a_body_over_the_readers_limit_closes_the_connection(run: Run) -> None:
    async def story() -> None:
        async with (
            serving(always(OK)) as server,
            client() as http,
            await http.request(server.origin, "GET", "/") as response,
        ):
            with pytest.raises(BodyTooLarge, match="longer than 1 bytes"):
                await response.read(1)

    run(story)


# ---- connections that break


async def _reset(peer: Peer) -> None:
    await peer.request()
    peer.reset()


def test_a_close_without_an_answer_says_that_nothing_came(run: Run) -> None:
    async def story() -> None:
        for script in (once(), _reset):
            async with serving(script) as server, client() as http:
                with pytest.raises(Disconnected) as caught:
                    await get(http, server)
                error = caught.value
                assert (error.nothing_received, error.request_written, error.is_stale) == (True, True, False)
                assert f"{server.origin} closed the connection without an answer" in str(error)
                assert error.origin == str(server.origin)
                assert figures(http.stats()[0])["open"] == 0

    run(story)


@pytest.mark.parametrize("answer", [b"H", OK[:-1], CHUNKED, CHUNKED + b"2\r\nok\r\n", CHUNKED + b"2\r\nok\r\n0\r\n"])
def test_a_cut_answer_is_never_taken_for_a_whole_one(run: Run, answer: bytes) -> None:
    async def story() -> None:
        async def reset(peer: Peer) -> None:
            await peer.request()
            await peer.send(answer)
            peer.reset()

        for script in (once(answer), reset):
            async with serving(script) as server, client() as http:
                with pytest.raises(Disconnected, match="in the middle") as caught:
                    await get(http, server)
                assert not caught.value.nothing_received

    run(story)


def test_a_body_that_should_end_with_its_connection_does_not_end_with_a_reset(run: Run) -> None:
    async def story() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\n\r\npart")
            read.set()
            await go.wait()
            peer.reset()

        read, go = asyncio.Event(), asyncio.Event()
        async with (
            serving(script) as server,
            client() as http,
            await http.request(server.origin, "GET", "/") as response,
        ):
            assert await response.piece() == b"part"
            go.set()
            with pytest.raises(Disconnected):
                await response.piece()

    run(story)


def test_what_came_before_a_cut_can_still_be_read(run: Run) -> None:
    async def story() -> None:
        async with (
            serving(once(CHUNKED, chunk(b"one"))) as server,
            client() as http,
            await http.request(server.origin, "GET", "/") as response,
        ):
            assert await response.piece() == b"one"
            with pytest.raises(Disconnected):
                await response.piece()

    run(story)


def test_nobody_listening_is_unreachable(run: Run) -> None:
    async def story() -> None:
        async with serving(always(OK)) as server:
            origin = server.origin
        async with client() as http:
            with pytest.raises(Unreachable, match="Nothing answers at") as caught:
                await http.request(origin, "GET", "/")
            assert (caught.value.nothing_received, caught.value.request_written) == (True, False)
            assert caught.value.origin == str(origin)
            assert figures(http.stats()[0])["open"] == 0

    run(story)


# ---- keeping connections


async def _hang_up_on_the_second(peer: Peer) -> None:
    """Answers once; the second request of a connection meets a close, as when an idle limit crosses it on the way."""
    await peer.request()
    await peer.send(OK)
    await peer.request()
    peer.close()


AT_ONCE = ClientLimits(crossed_s=60.0)  # however slow this machine is


def test_a_stale_connection_costs_an_idempotent_request_nothing(run: Run) -> None:
    async def story() -> None:
        async with serving(_hang_up_on_the_second) as server, client(AT_ONCE) as http:
            assert [await get(http, server) for _ in range(2)] == [b"ok", b"ok"]
            assert figures(http.stats()[0]) == {
                "open": 1,
                "idle": 1,
                "waiting": 0,
                "opened": 2,
                "reused": 1,
                "stale": 1,
            }

    run(story)


def test_a_stale_connection_tells_the_sender_of_a_post(run: Run) -> None:
    async def story() -> None:
        async with serving(_hang_up_on_the_second) as server, client(AT_ONCE) as http:
            await get(http, server)
            with pytest.raises(Disconnected) as caught:
                await http.request(server.origin, "POST", "/", body=b"{}")
            error = caught.value
            assert (error.is_stale, error.nothing_received, error.request_written) == (True, True, True)
            await get(http, server)
            async with await http.request(server.origin, "POST", "/", body=b"{}", is_repeatable=True) as response:
                assert await response.read(10) == b"ok"

    run(story)


def test_what_a_server_had_time_to_work_at_is_not_sent_again(run: Run) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        await asyncio.sleep(0.02)  # it is at work
        peer.close()

    async def story() -> None:
        async with serving(script) as server, client(ClientLimits(crossed_s=0.001)) as http:
            await get(http, server)
            with pytest.raises(Disconnected) as caught:
                await http.request(server.origin, "POST", "/", body=b"{}", is_repeatable=True)
            assert (caught.value.is_stale, caught.value.nothing_received, len(server.asked)) == (False, True, 2)

    run(story)


def test_a_connection_that_is_lost_before_the_whole_request_is_sent_is_stale_however_long_that_took(run: Run) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        if peer.number == 1:
            await peer.reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.02)
            peer.reset()

    async def story() -> None:
        async with serving(script) as server, client(ClientLimits(crossed_s=0.001)) as http:
            await get(http, server)
            body = b"x" * (16 << 20)
            async with await http.request(server.origin, "POST", "/", body=body, is_repeatable=True) as response:
                assert await response.read(10) == b"ok"
            assert (server.connections, http.stats()[0].stale) == (2, 1)

    run(story)


def test_a_connection_that_the_server_closed_while_idle_is_not_used(run: Run) -> None:
    async def story() -> None:
        async with serving(once(OK)) as server, client() as http:
            for _ in range(2):
                async with await http.request(server.origin, "POST", "/", body=b"{}") as response:
                    assert await response.read(10) == b"ok"
                await until(lambda: figures(http.stats()[0])["open"] == 0)
            assert server.connections == 2

    run(story)


@pytest.mark.parametrize("surplus", [OK, b"junk", b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
def test_bytes_after_an_answer_end_the_connection(run: Run, surplus: bytes) -> None:
    """They could be read as the answer to somebody else's request."""

    async def story() -> None:
        async def later(peer: Peer) -> None:
            await peer.request()
            await peer.send(OK)
            await go.wait()
            await peer.send(surplus)
            await peer.gone()

        go = asyncio.Event()
        for script in (always(OK + surplus), later):
            async with serving(script) as server, client() as http:
                assert await get(http, server) == b"ok"
                go.set()
                await until(lambda: figures(http.stats()[0])["open"] == 0)
                assert await get(http, server) == b"ok"
                assert server.connections == 2

    run(story)


def test_connection_close_is_obeyed(run: Run) -> None:
    async def story() -> None:
        answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
        async with serving(always(answer)) as server, client() as http:
            for _ in range(2):
                assert await get(http, server) == b"ok"
            assert server.connections == 2

    run(story)


def test_an_idle_connection_is_closed_in_time(run: Run) -> None:
    async def story() -> None:
        async with serving(always(OK)) as server, client(ClientLimits(idle_s=0.3)) as http:
            assert await get(http, server) == b"ok"
            assert server.open == 1
            await until(lambda: server.open == 0)

    run(story)


def test_the_connection_used_last_is_used_next(run: Run) -> None:
    async def story() -> None:
        gates = [asyncio.Event() for _ in range(3)]

        async def script(peer: Peer) -> None:
            await peer.request()
            await gates[peer.number - 1].wait()
            await peer.send(OK)
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % peer.number)
            await peer.gone()

        async with serving(script) as server, client() as http:
            tasks = []
            for number in range(3):
                tasks.append(asyncio.ensure_future(get(http, server)))
                await until(lambda number=number: len(server.asked) == number + 1)
            for number in (2, 0, 1):
                gates[number].set()
                await tasks[number]
            assert await get(http, server) == b"2"

    run(story)


# ---- bounds


def test_requests_wait_in_line_for_a_bounded_number_of_connections(run: Run) -> None:
    async def story() -> None:
        gate = asyncio.Event()

        async def script(peer: Peer) -> None:
            while True:
                asked = await peer.request()
                await gate.wait()
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + asked.line[5:7])

        limits = ClientLimits(connections_per_origin=2, waiting_per_origin=3)

        async def ask(number: int) -> bytes:
            async with await http.request(server.origin, "GET", f"/{number}") as response:
                answered.append(number)
                return await response.read(10)

        answered: list[int] = []
        async with serving(script) as server, client(limits) as http:
            tasks = [asyncio.ensure_future(ask(number)) for number in range(10, 15)]
            await until(lambda: len(server.asked) == 2)
            assert figures(http.stats()[0])["waiting"] == 3
            with pytest.raises(QueueFull, match=r"All 2 connections to http.* are busy and 3 requests wait"):
                await ask(99)
            gate.set()
            assert await asyncio.gather(*tasks) == [b"10", b"11", b"12", b"13", b"14"]
            assert answered[2:] == sorted(answered[2:])
            assert server.connections == 2

    run(story)


def test_a_place_freed_by_a_broken_connection_goes_to_who_waits(run: Run) -> None:
    async def story() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            if peer.number == 1:
                await gate.wait()
                peer.reset()
            await peer.send(OK)
            await peer.gone()

        gate = asyncio.Event()
        async with serving(script) as server, client(ClientLimits(connections_per_origin=1)) as http:
            first = asyncio.ensure_future(get(http, server))
            await until(lambda: len(server.asked) == 1)
            second = asyncio.ensure_future(get(http, server))
            await asyncio.sleep(0)
            gate.set()
            with pytest.raises(Disconnected):
                await first
            assert await second == b"ok"

    run(story)


def test_a_slow_reader_pauses_the_socket(run: Run) -> None:
    sent = 0
    total = 64 << 20

    async def story() -> None:
        async def script(peer: Peer) -> None:
            nonlocal sent
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
            while sent < total:
                await peer.send(b"x" * (1 << 16))
                sent += 1 << 16
            await peer.gone()

        nonlocal sent
        sent = 0
        async with serving(script) as server, client(ClientLimits(buffer_bytes=1 << 16)) as http:
            async with await http.request(server.origin, "GET", "/") as response:
                seen = -1
                while seen != sent:  # until the server is stuck
                    seen = sent
                    await asyncio.sleep(0.02)
                assert seen < total // 4
                size = 0
                async for piece in response:
                    size += len(piece)
                assert size == total
            assert figures(http.stats()[0])["idle"] == 1

    run(story)


# ---- deadlines


async def _silent(peer: Peer) -> None:
    await peer.request()
    await peer.gone()


def test_each_deadline_says_which_it_was(run: Run) -> None:
    async def story() -> None:
        async def head_only(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED)
            await peer.gone()

        async def one_piece(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED, chunk(b"one"))
            await peer.gone()

        for script, deadlines, limit, what in [
            (_silent, Deadlines(head_s=0.05), "head", "gave no answer for 0.05 s"),
            (_silent, Deadlines(first_piece_s=0.05), "first piece", "sent nothing of its answer's body for 0.05 s"),
            (_silent, Deadlines(total_s=0.5), "total", "did not end its answer within 0.5 s"),
            # What is to come before the limit has half a second for it.
            (head_only, Deadlines(first_piece_s=0.5), "first piece", "sent nothing of its answer's body for 0.5 s"),
            (head_only, Deadlines(stall_s=0.5), "stall", "was silent in the middle of its answer for 0.5 s"),
            (one_piece, Deadlines(stall_s=0.5), "stall", "was silent in the middle of its answer for 0.5 s"),
            (one_piece, Deadlines(first_piece_s=0.4, total_s=0.6), "total", "did not end its answer within 0.6 s"),
        ]:
            async with serving(script) as server, client() as http:
                with pytest.raises(TimedOut) as caught:
                    await get(http, server, deadlines=deadlines)
                error = caught.value
                assert str(error) == f"{server.origin} {what} ({limit} limit)."
                assert (error.limit, error.limit_s, error.request_written) == (limit, float(what.split()[-2]), True)
                assert error.nothing_received is (script is _silent)
                await until(lambda server=server: server.open == 0)
                assert figures(http.stats()[0])["open"] == 0

    run(story)


def test_a_server_that_keeps_sending_does_not_stall(run: Run) -> None:
    async def story() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED)
            for _ in range(12):
                await peer.send(chunk(b"x"))
                await asyncio.sleep(0.05)
            await peer.send(chunk(b""))
            await peer.gone()

        async with serving(script) as server, client() as http:
            assert await get(http, server, deadlines=Deadlines(stall_s=0.5)) == b"x" * 12

    run(story)


def test_who_reads_slowly_is_not_a_stall_of_the_server(run: Run) -> None:
    async def story() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED, chunk(b"one"))
            await go.wait()
            await peer.send(chunk(b"two"), chunk(b""))
            await peer.gone()

        go = asyncio.Event()
        async with (
            serving(script) as server,
            client() as http,
            await http.request(server.origin, "GET", "/", deadlines=Deadlines(stall_s=0.4)) as response,
        ):
            assert await response.piece() == b"one"
            await asyncio.sleep(0.6)
            go.set()
            assert await response.read(10) == b"two"

    run(story)


def test_a_server_that_takes_no_more_of_the_request_is_given_up(run: Run) -> None:
    async def story() -> None:
        async def script(peer: Peer) -> None:
            await go.wait()

        go = asyncio.Event()
        async with serving(script) as server, client() as http:
            for body in (b"x" * (32 << 20), _endless()):
                with pytest.raises(TimedOut, match=r"took no more of the request for 0\.1 s"):
                    await http.request(server.origin, "POST", "/", body=body, deadlines=Deadlines(stall_s=0.1))
            go.set()

    run(story)


async def _endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * (1 << 20)


def test_waiting_for_a_connection_has_a_deadline(run: Run) -> None:
    async def story() -> None:
        async with serving(_silent) as server, client(ClientLimits(connections_per_origin=1)) as http:
            first = asyncio.ensure_future(get(http, server))
            await until(lambda: len(server.asked) == 1)
            with pytest.raises(TimedOut, match=r"became free within 0.05 s \(queue limit\)") as caught:
                await get(http, server, deadlines=Deadlines(queue_s=0.05))
            assert not caught.value.request_written
            with pytest.raises(TimedOut, match=r"could not be asked within 0.05 s \(total limit\)"):
                await get(http, server, deadlines=Deadlines(total_s=0.05))
            assert figures(http.stats()[0])["waiting"] == 0
            first.cancel()

    run(story)


def test_no_deadline_is_left_in_the_wheel(run: Run) -> None:
    async def story() -> None:
        async with serving(always(OK)) as server, client() as http:
            deadlines = Deadlines(*[math.inf] * 6)
            for _ in range(3):
                await get(http, server)
                await get(http, server, deadlines=deadlines)
            assert len(http._timers) == 2  # the idle connection's, and the one that its exchanges have in turn
            await http.aclose()
            assert len(http._timers) == 0

    run(story)


def test_clients_may_share_a_wheel_which_none_of_them_stops(run: Run) -> None:
    async def story() -> None:
        timers = LoopTimers(asyncio.get_running_loop())
        async with serving(_silent) as server:
            first, second = HttpClient(timers=timers), HttpClient(timers=timers)
            waiting = asyncio.ensure_future(get(second, server, deadlines=Deadlines(head_s=0.5)))
            await until(lambda: len(server.asked) == 1)
            assert len(timers) == 1
            await first.aclose()
            with pytest.raises(TimedOut):
                await waiting
            await second.aclose()

    run(story)


# ---- leaving


def test_leaving_an_answer_closes_its_connection(run: Run) -> None:
    async def story() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(CHUNKED, chunk(b"one"))
            await peer.gone()

        async with serving(script) as server, client() as http:
            async with await http.request(server.origin, "GET", "/") as response:
                assert await response.piece() == b"one"
            with pytest.raises(Disconnected, match="given up"):
                await response.piece()
            await until(lambda: server.open == 0)
            assert figures(http.stats()[0])["open"] == 0

    run(story)


def test_cancelling_closes_the_connection_in_every_phase(run: Run) -> None:
    async def story() -> None:
        async def script(peer: Peer) -> None:
            asked = await peer.request()
            if asked.line.startswith(b"GET /stream"):
                await peer.send(CHUNKED, chunk(b"one"))
            reached.set()
            await peer.gone()

        async with serving(script) as server, client(ClientLimits(connections_per_origin=1)) as http:
            for target in ("/head", "/stream"):
                reached = asyncio.Event()
                task = asyncio.ensure_future(_read_all(http, server, target))
                await reached.wait()
                await asyncio.sleep(0.01)
                waiting = asyncio.ensure_future(get(http, server))
                await asyncio.sleep(0)
                assert figures(http.stats()[0])["waiting"] == 1
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await until(lambda: server.open == 0)
                assert figures(http.stats()[0])["open"] == figures(http.stats()[0])["waiting"] == 0

    run(story)


async def _read_all(http: HttpClient, server: RawServer, target: str) -> None:
    response = await http.request(server.origin, "GET", target)
    await response.read(1 << 20)


def test_an_answer_that_is_forgotten_frees_its_place(run: Run) -> None:
    async def story() -> None:
        async with serving(always(CHUNKED)) as server, client() as http:
            response = await http.request(server.origin, "GET", "/")
            with pytest.warns(ResourceWarning, match="neither read nor closed"):
                del response
            assert figures(http.stats()[0])["open"] == 0

    run(story)


def test_a_closed_client_refuses_and_ends_everything(run: Run) -> None:
    async def story() -> None:
        async with serving(_silent) as server, client(ClientLimits(connections_per_origin=1)) as http:
            busy, waiting = (asyncio.ensure_future(get(http, server)) for _ in range(2))
            await until(lambda: len(server.asked) == 1)
            await http.aclose()
            results = await asyncio.gather(busy, waiting, return_exceptions=True)
            assert [type(result) for result in results] == [Disconnected, ClientClosed]
            with pytest.raises(ClientClosed, match="the client is closed"):
                await get(http, server)
            await until(lambda: server.open == 0)

    run(story)


def test_a_dropped_origin_lets_what_is_under_way_end(run: Run) -> None:
    async def story() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await go.wait()
            await peer.send(OK)
            await peer.gone()

        go = asyncio.Event()
        async with serving(script) as server, client() as http:
            busy = asyncio.ensure_future(get(http, server))
            await until(lambda: len(server.asked) == 1)
            http.drop(server.origin)
            assert http.stats() == []
            go.set()
            assert await busy == b"ok"
            await until(lambda: server.open == 0)

    run(story)
