"""Servers that many run: uvicorn with both of its parsers, and nginx."""

import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from servery.http.client import HttpClient
from servery.http.errors import Disconnected
from servery.http.proxy import Proxies
from servery.http.url import Origin, TlsFiles
from tests.http.conftest import Authority, Run
from tests.http.raw_server import Asked, Peer, RawServer, chunk, serving
from tests.ports import free_port

BIG = bytes(range(256)) * 4000


@asynccontextmanager
async def client() -> AsyncIterator[HttpClient]:
    http = HttpClient(proxies=Proxies())
    try:
        yield http
    finally:
        await http.aclose()


async def pieces(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Echoes what it gets; under /stream in many pieces, under /cut it breaks off."""
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    status = 204 if scope["path"] == "/nothing" else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"x-method", scope["method"].encode())]})
    if scope["path"] in ("/stream", "/cut"):
        for word in (b"one ", b"two ", b"three"):
            await send({"type": "http.response.body", "body": word, "more_body": True})
        if scope["path"] == "/cut":
            raise ConnectionResetError
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module", params=["h11", "httptools"])
def uvicorn_origin(request: pytest.FixtureRequest) -> Iterator[Origin]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        config = uvicorn.Config(app, http=request.param, lifespan="off", log_config=None)  # type: ignore[arg-type]
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield Origin("http", "127.0.0.1", listener.getsockname()[1])
        server.should_exit = True
        thread.join()


def test_uvicorn_and_this_client_understand_each_other(run: Run, uvicorn_origin: Origin) -> None:
    async def story() -> None:
        async with client() as http:

            async def ask(method: str, target: str, body: Any = b"") -> tuple[int, bytes]:
                async with await http.request(uvicorn_origin, method, target, body=body) as response:
                    assert response.headers.get(b"X-Method") == method.encode()
                    return response.status, await response.read(len(BIG))

            for _ in range(2):
                assert await ask("GET", "/") == (200, b"")
                assert await ask("POST", "/", BIG) == (200, BIG)
                assert await ask("POST", "/", pieces(BIG, 70_000)) == (200, BIG)
                assert await ask("HEAD", "/", b"x") == (200, b"")
                assert await ask("GET", "/nothing") == (204, b"")
                assert await ask("GET", "/stream") == (200, b"one two three")
            assert http.stats()[0].opened == 1
            with pytest.raises(Disconnected, match="in the middle"):
                await ask("GET", "/cut")

    run(story)


NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off; keepalive_requests 3; gzip on; gzip_types *; gzip_min_length 1; client_max_body_size 4m;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
    scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{tls_port} ssl;
        ssl_certificate {certificate}; ssl_certificate_key {certificate};
        location / {{ root {folder}/files; }}
        location /pass/ {{
            proxy_pass http://127.0.0.1:{upstream}; proxy_http_version 1.1; proxy_buffering off;
            proxy_request_buffering off; proxy_set_header Connection "";
        }}
    }}
}}
"""


@contextmanager
def nginx(program: str, folder: Path, authority: Authority, upstream: RawServer) -> Iterator[tuple[Origin, Origin]]:
    """Its origins, without TLS and with."""
    port, tls_port = free_port(), free_port()
    (folder / "files").mkdir()
    (folder / "files" / "big.txt").write_bytes(BIG)
    (folder / "nginx.conf").write_text(
        NGINX.format(
            folder=folder, port=port, tls_port=tls_port, upstream=upstream.port, certificate=authority.localhost
        )
    )
    arguments = ["-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    with subprocess.Popen([program, *arguments]) as process:
        try:
            while not (folder / "pid").exists() and process.poll() is None:
                time.sleep(0.01)
            yield (
                Origin("http", "127.0.0.1", port),
                Origin("https", "127.0.0.1", tls_port, TlsFiles(ca=authority.ca)),
            )
        finally:
            process.terminate()


def test_nginx_and_this_client_understand_each_other(
    run: Run, authority: Authority, tmp_path: Path, require_program: Callable[[str], str]
) -> None:
    program = require_program("nginx")

    async def upstream(peer: Peer) -> None:
        while True:
            asked: Asked = await peer.request()
            if b"/stream" in asked.line or b"/cut" in asked.line:
                await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunk(b"one "), chunk(b"two"))
                if b"/cut" in asked.line:
                    peer.reset()
                await peer.send(chunk(b""))
            else:
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(asked.body), asked.body)

    async def story() -> None:
        async with serving(upstream) as server, client() as http, AsyncExitStack() as stack:
            origins = stack.enter_context(nginx(program, tmp_path, authority, server))

            async def ask(
                origin: Origin, method: str, target: str, body: Any = b"", *headers: Any
            ) -> tuple[int, bytes]:
                async with await http.request(origin, method, target, headers, body) as response:
                    assert response.headers.get(b"server") is not None
                    return response.status, await response.read(len(BIG))

            for origin in origins:
                async with await http.request(origin, "GET", "/big.txt") as response:
                    tag = response.headers.get(b"etag")
                    assert await response.read(len(BIG)) == BIG
                assert await ask(origin, "HEAD", "/big.txt") == (200, b"")
                assert await ask(origin, "GET", "/big.txt", b"", (b"if-none-match", tag)) == (304, b"")
                assert (await ask(origin, "GET", "/nowhere"))[0] == 404
                assert await ask(origin, "POST", "/pass/echo", BIG) == (200, BIG)
                assert await ask(origin, "POST", "/pass/echo", pieces(BIG, 70_000)) == (200, BIG)
                assert await ask(origin, "GET", "/pass/stream") == (200, b"one two")
                assert (await ask(origin, "GET", "/", b"", (b"x", b"y" * 40_000)))[0] == 400  # its limit, and it closes
                with pytest.raises(Disconnected, match="in the middle"):
                    await ask(origin, "GET", "/pass/cut")
                # It closes each connection after three requests, and says so.
                before = sum(stats.opened for stats in http.stats())
                assert [await ask(origin, "HEAD", "/big.txt") for _ in range(9)] == [(200, b"")] * 9
                assert sum(stats.opened for stats in http.stats()) - before == 3
                assert sum(stats.stale for stats in http.stats()) == 0

    run(story)
