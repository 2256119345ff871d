import asyncio
import contextlib
import dataclasses
import socket
import ssl
import threading

import pytest

from servery.http import dialer
from servery.http.client import HttpClient
from servery.http.errors import BadUrl, Disconnected, HttpError, TimedOut, Unreachable, Untrusted
from servery.http.limits import ClientLimits, Deadlines
from servery.http.proxy import Proxies
from servery.http.tls import client_context
from servery.http.url import Origin, TlsFiles
from tests.http.conftest import Authority, Run
from tests.http.raw_server import OK, Peer, always, serving, until


async def ask(origin: Origin, deadlines: Deadlines = Deadlines()) -> bytes:  # noqa: B008 - frozen
    http = HttpClient(proxies=Proxies())
    try:
        async with await http.request(origin, "GET", "/", deadlines=deadlines) as response:
            return await response.read(100)
    finally:
        await http.aclose()


def test_a_certificate_of_the_given_authority_for_this_host_is_trusted(run: Run, authority: Authority) -> None:
    async def story() -> None:
        names: list[str | None] = []
        context = authority.server_context(authority.localhost)
        context.set_alpn_protocols(["h2", "http/1.1"])
        context.sni_callback = lambda _, name, __: names.append(name)

        async def script(peer: Peer) -> None:
            protocols.append(peer.writer.get_extra_info("ssl_object").selected_alpn_protocol())
            await always(OK)(peer)

        protocols: list[str | None] = []
        for host in ("localhost", "127.0.0.1"):
            async with serving(script, context, host=host, tls=TlsFiles(ca=authority.ca)) as server:
                assert await ask(server.origin) == b"ok"
        assert protocols == ["http/1.1", "http/1.1"]
        assert names[0] == "localhost"

    run(story)


@pytest.mark.parametrize(
    ("certificate", "is_ca_given", "why"),
    [
        ("localhost", False, "is not trusted (unable to get local issuer certificate)."),
        ("elsewhere", True, "is not trusted (Hostname mismatch, certificate is not valid for 'localhost')."),
        ("expired", True, "is not trusted (certificate has expired)."),
    ],
)
def test_any_other_certificate_is_refused(
    run: Run, authority: Authority, certificate: str, is_ca_given: bool, why: str
) -> None:
    async def story() -> None:
        context = authority.server_context(getattr(authority, certificate))
        files = TlsFiles(ca=authority.ca if is_ca_given else None)
        async with serving(always(OK), context, host="localhost", tls=files) as server:
            with pytest.raises(Untrusted) as caught:
                await ask(server.origin)
            assert str(caught.value) == f"The certificate of {server.origin} {why}"
            assert (caught.value.request_written, caught.value.origin) == (False, str(server.origin))
            assert server.asked == []

    run(story)


def test_the_systems_store_can_be_moved_by_the_environment(
    run: Run, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", authority.ca)

    async def story() -> None:
        context = authority.server_context(authority.localhost)
        async with serving(always(OK), context, host="localhost") as server:
            assert await ask(server.origin) == b"ok"

    run(story)


def test_a_client_certificate_is_shown_where_one_is_given(run: Run, authority: Authority) -> None:
    async def story() -> None:
        async def script(peer: Peer) -> None:
            subjects.append(peer.writer.get_extra_info("peercert")["subject"][0][0][1])
            await always(OK)(peer)

        subjects: list[str] = []
        context = authority.server_context(authority.localhost, asks_for_client=True)
        files = TlsFiles(authority.ca, authority.client, authority.client_key)
        async with serving(script, context, host="localhost", tls=files) as server:
            assert await ask(server.origin) == b"ok"
            assert subjects == ["client"]
            with pytest.raises(HttpError) as caught:
                await ask(Origin("https", "localhost", server.port, TlsFiles(authority.ca)))
            assert caught.value.nothing_received

    run(story)


def test_a_server_without_tls_is_told_apart(run: Run, authority: Authority) -> None:
    async def story() -> None:
        async def script(peer: Peer) -> None:
            await peer.reader.read(10)
            await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        async with serving(script, scheme="https", host="localhost") as server:
            with pytest.raises(Untrusted, match=r"refused TLS .*; check scheme and port"):
                await ask(server.origin)

        async def leave(peer: Peer) -> None:
            await peer.reader.read(10)

        async with serving(leave, scheme="https", host="localhost") as server:
            with pytest.raises(Unreachable):
                await ask(server.origin)

    run(story)


def test_the_connect_deadline_covers_the_handshake(run: Run) -> None:
    async def story() -> None:
        async def script(peer: Peer) -> None:
            await peer.gone()

        async with serving(script, scheme="https", host="localhost") as server:
            with pytest.raises(TimedOut, match=r"accepted no connection within 0.1 s \(connect limit\)") as caught:
                await ask(server.origin, Deadlines(connect_s=0.1))
            assert (caught.value.limit, caught.value.request_written) == ("connect", False)
            await until(lambda: server.open == 0)

    run(story)


def test_a_body_to_the_end_of_the_connection_needs_the_end_of_tls(run: Run, authority: Authority) -> None:
    """Else anybody on the way could cut an answer, and it would be taken for a whole one (RFC 9112 section 9.8)."""

    async def story() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\n\r\nall there is")
            if is_cut:
                peer.writer.transport.abort()

        context = authority.server_context(authority.localhost)
        async with serving(script, context, host="localhost", tls=TlsFiles(ca=authority.ca)) as server:
            is_cut = False
            assert await ask(server.origin) == b"all there is"
            is_cut = True
            with pytest.raises(Disconnected, match="in the middle"):
                await ask(server.origin)

    run(story)


def test_large_bodies_pass_through_tls(run: Run, authority: Authority) -> None:
    body = bytes(range(256)) * 8000

    async def story() -> None:
        async def script(peer: Peer) -> None:
            while True:
                asked = await peer.request()
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(asked.body), asked.body)

        context = authority.server_context(authority.localhost)
        http = HttpClient(proxies=Proxies())
        async with serving(script, context, host="localhost", tls=TlsFiles(ca=authority.ca)) as server:
            for _ in range(2):
                async with await http.request(server.origin, "POST", "/", body=body) as response:
                    assert await response.read(len(body)) == body
            assert server.connections == 1
            await http.aclose()

    run(story)


def _answer_and_close(listener: socket.socket, context: ssl.SSLContext, answer: bytes) -> None:
    """As nginx closes: the end of TLS is sent, the client's is not waited for."""
    with listener.accept()[0] as plain, context.wrap_socket(plain, server_side=True) as tls:
        tls.recv(1 << 16)
        tls.sendall(answer)
        tls.setblocking(False)
        with contextlib.suppress(OSError):
            tls.unwrap()


def test_what_a_slow_reader_left_is_still_there_when_the_server_has_closed(run: Run, authority: Authority) -> None:
    """asyncio and uvloop drop it when TLS and the connection end while the TLS transport is paused."""
    body = bytes(range(256)) * 4000
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    async def story() -> None:
        http = HttpClient(ClientLimits(buffer_bytes=20_000), proxies=Proxies())
        with socket.create_server(("127.0.0.1", 0)) as listener:
            context = authority.server_context(authority.localhost)
            origin = Origin("https", "localhost", listener.getsockname()[1], TlsFiles(ca=authority.ca))
            served = asyncio.get_running_loop().run_in_executor(None, _answer_and_close, listener, context, answer)
            async with await http.request(origin, "GET", "/") as response:
                read = b""
                async for piece in response:
                    read += piece
                    await asyncio.sleep(0.001)
            assert read == body
            await served
        await http.aclose()

    run(story)


def test_files_that_cannot_be_used_are_named(
    run: Run, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> None:
    empty = tmp_path_factory.mktemp("tls") / "empty.pem"
    empty.write_text("")

    async def story() -> None:
        for files, why in [
            (TlsFiles(ca="/nowhere/ca.pem"), "The authority's certificate '/nowhere/ca.pem' cannot be used (No such"),
            (TlsFiles(ca=str(empty)), f"The authority's certificate '{empty}' cannot be used (NO_CERTIFICATE"),
            (TlsFiles(certificate=authority.client), f"The client certificate '{authority.client}' cannot be used ("),
        ]:
            with pytest.raises(BadUrl) as caught:
                await ask(Origin("https", "localhost", 1, files))
            assert str(caught.value).startswith(why)

    run(story)


def test_verification_cannot_be_switched_off() -> None:
    context = client_context(TlsFiles())
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("is_tls", [False, True])
def test_cancelling_at_any_turn_of_connecting_leaves_nothing(run: Run, authority: Authority, is_tls: bool) -> None:
    """Whether addresses are looked up, the socket connects, keys are agreed on, or all that has just been done."""

    async def story() -> None:
        context = authority.server_context(authority.localhost) if is_tls else None
        files = TlsFiles(ca=authority.ca) if is_tls else TlsFiles()
        async with serving(_never, context, host="localhost", tls=files) as server:
            http = HttpClient(proxies=Proxies())
            for turns in range(40):
                task = asyncio.create_task(http.request(server.origin, "GET", "/"))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await until(lambda: server.open == 0)
                assert [(each.open, each.idle, each.waiting) for each in http.stats()] == [(0, 0, 0)] * bool(turns)
            await http.aclose()

    run(story)


async def _never(peer: Peer) -> None:
    await peer.gone()


def test_cancelling_while_certificates_are_read_asks_nobody(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slowly(files: TlsFiles) -> ssl.SSLContext:
        begun.set()
        go_on.wait()
        return client_context(files)

    async def story() -> None:
        begun.clear()
        go_on.clear()
        async with serving(always(OK)) as server:
            http = HttpClient(proxies=Proxies())
            origin = dataclasses.replace(server.origin, scheme="https")
            task = asyncio.create_task(http.request(origin, "GET", "/"))
            await asyncio.to_thread(begun.wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert http.stats()[0].open == 0
            go_on.set()
            await asyncio.get_running_loop().shutdown_default_executor()
            assert (server.connections, http.stats()[0].opened) == (0, 0)
            await http.aclose()

    monkeypatch.setattr(dialer, "client_context", slowly)
    run(story)
