import asyncio
import ssl
import subprocess
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvloop

Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]

STORY_S = 60.0  # a story that hangs fails instead


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on an event loop, once on each kind; what the loop's exception handler was told fails the test."""

    def run_story(story: Callable[[], Awaitable[None]]) -> None:
        complaints: list[dict[str, Any]] = []

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
            await asyncio.wait_for(story(), STORY_S)
            await asyncio.sleep(0)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop if request.param == "uvloop" else None) as runner:
            runner.run(main())
        assert complaints == []

    return run_story


@dataclass(frozen=True)
class Authority:
    """A certificate authority that nobody else trusts, and what it signed. All paths are of PEM files."""

    ca: str
    localhost: str  # for localhost and 127.0.0.1, with its key
    elsewhere: str  # for another host
    expired: str
    client: str  # for a client, without its key
    client_key: str

    def server_context(self, certificate: str, *, asks_for_client: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        if asks_for_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca)
        return context


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory, require_program: Callable[[str], str]) -> Authority:
    """Made on the fly, so that nothing expires in the repository."""
    openssl, folder = require_program("openssl"), tmp_path_factory.mktemp("authority")

    def call(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    def certificate(name: str, names: str, *dates: str) -> str:
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key"]
        (folder / f"{name}.ext").write_text(f"subjectAltName={names}\n")
        call("req", *key, "-subj", f"/CN={name}", "-out", f"{name}.csr")
        call("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
             "-extfile", f"{name}.ext", "-out", f"{name}.crt", *(dates or ("-days", "2")))  # fmt: skip
        (folder / f"{name}.pem").write_text((folder / f"{name}.crt").read_text() + (folder / f"{name}.key").read_text())
        return str(folder / f"{name}.pem")

    call("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=Test authority", "-keyout", "ca.key", "-out", "ca.pem",
         "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
    local = "DNS:localhost,IP:127.0.0.1"
    return Authority(
        ca=str(folder / "ca.pem"),
        localhost=certificate("localhost", local),
        elsewhere=certificate("elsewhere", "DNS:elsewhere.example"),
        expired=certificate("expired", local, "-days", "-1"),
        client=str(Path(certificate("client", "DNS:client")).with_suffix(".crt")),
        client_key=str(folder / "client.key"),
    )
