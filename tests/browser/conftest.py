"""A real Chromium, and a server with two models, of whose deployments one is not there."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.e2e.server_process import ServerProcess, eventually
from tests.ports import free_port

expect.set_options(timeout=60_000)  # only what never comes fails

ADMIN, VIEWER, CLIENT = "admin-key-of-the-browser", "viewer-key-of-the-browser", "client-key-of-the-browser"

CONFIG = f"""
server:
  ledger: LEDGER
  admin_keys: ["{ADMIN}"]
  viewer_keys: ["{VIEWER}"]
deployments:
  here: {{ kind: embedded, model: amuse-draft, price: {{ per_hour: 0.85 }}, engine: {{ kv_memory: 2MiB, max_model_len: 256, threads: 1 }} }}
  gone: {{ kind: vllm, url: "http://127.0.0.1:9/v1", model: m, price: {{ input: 1, output: 2 }} }}
models:
  chat: {{ deployments: [[here]], slo: {{ ttft: 5s, tpot: 1s, attainment: 95% }} }}
  lost: {{ deployments: [[gone]], retry: {{ attempts: 1 }} }}
keys:
  reports: {{ sha256: "{hashlib.sha256(CLIENT.encode()).hexdigest()}", owner: lab, limits: {{ dollars_per_day: 2 }} }}
"""


class Served:
    """A server of `CONFIG` that can be started again at the same port."""

    def __init__(self, folder: Path) -> None:
        self.config = folder / "servery.yaml"
        self.config.write_text(CONFIG.replace("LEDGER", str(folder / "ledger.sqlite")))
        self._cookies: dict[str, dict[str, str]] = {}
        self.port = free_port()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.process.end()

    def kill(self) -> None:
        self.process.process.kill()
        self.process.end()

    def start(self) -> None:
        self.process = ServerProcess("--config", str(self.config), "--port", str(self.port))
        self.process.wait_ready()

    def chat(self, model: str = "chat", max_tokens: int = 8, words: str = "Once upon a time") -> int:
        """Ask; the status of the answer."""
        body = {"model": model, "messages": [{"role": "user", "content": words}], "max_tokens": max_tokens}
        return self.process.ask("POST", "/v1/chat/completions", body, authorization=f"Bearer {CLIENT}").status

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        text = self.process.ask("GET", "/metrics", authorization=f"Bearer {ADMIN}").body.decode()
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        found = [line for line in text.splitlines() if line.startswith((f"servery_{name}{{", f"servery_{name} "))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found if all(each in line for each in wanted))

    def session(self, key: str) -> dict[str, str]:
        """The cookie of who has logged in with a key."""
        if key not in self._cookies:
            page = {"x_servery_dashboard": "1"}
            answer = self.process.ask("POST", "/dashboard/api/login", {"key": key}, **page)
            name, _, value = answer.headers["set-cookie"].partition(";")[0].partition("=")
            self._cookies[key] = {"name": name, "value": value, "domain": "127.0.0.1", "path": "/dashboard"}
        return self._cookies[key]

    def settle(self) -> None:
        """Wait until the ledger has a row of every exchange."""
        counted = self.metric("exchanges_total")
        eventually(lambda: self.metric("ledger_rows_total", result="written") >= counted, "the rows are written")

    def snapshot(self) -> Any:
        """What the dashboard's page is told."""
        return json.loads(self.process.ask("GET", "/dashboard/api/snapshot", authorization=f"Bearer {VIEWER}").body)


@pytest.fixture(scope="package")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that has answered ten requests, and refused six."""
    server = Served(tmp_path_factory.mktemp("dashboard"))
    try:
        shared = "Tell me of the fox who went to the sea and of all whom he met there on his way. " * 2
        assert [server.chat(max_tokens=12, words=f"{shared}{number}") for number in range(10)] == [200] * 10
        assert {server.chat("lost") for _ in range(6)} <= {502, 503}
        server.settle()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def chromium(require_program: Callable[[str], str]) -> Iterator[Browser]:
    """Debian's. No longer than a module, because its event loop is the thread's as long as it is there."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require_program("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


def until(page: Page, expression: str, arg: Any = None) -> None:
    """Wait until it is true in the page. Playwright's own wait evaluates a text there, which the page's policy forbids."""
    eventually(lambda: bool(page.evaluate(expression, arg)), expression)


def complained(page: Page, complaints: list[str], word: str) -> None:
    """Wait until the console has complained of this, which it may do after the page has; and of nothing else."""
    while not any(word in each for each in complaints):
        page.wait_for_timeout(10)
    assert [each for each in complaints if word not in each] == []
    complaints.clear()


Opened = Callable[..., Page]


@pytest.fixture
def opened(chromium: Browser, served: Served) -> Iterator[Opened]:
    """Opens the dashboard, logged in with a key unless that is None; what the console says against it fails the test."""
    complaints: list[str] = []
    with contextlib.ExitStack() as stack:

        def open_page(
            key: str | None = ADMIN, *, at: str = "", width: int = 1280, height: int = 900, **more: Any
        ) -> Page:
            context = chromium.new_context(viewport={"width": width, "height": height}, **more)
            stack.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(60_000)
            page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            if key is not None:
                context.add_cookies([served.session(key)])  # type: ignore[list-item]
            page.goto(f"{served.url}/dashboard{at}")
            if key is not None:
                until(page, "globalThis.servery?.store.now")
            return page

        open_page.complaints = complaints  # type: ignore[attr-defined]
        yield open_page
    assert complaints == []
