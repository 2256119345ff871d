"""A server by a configuration, with real engines that are killed and stopped while they answer."""

import asyncio
import http.client
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from servery.telemetry.ledger.reading import rows_in
from servery.telemetry.ledger.row import LedgerRow
from tests.e2e.server_process import ServerProcess, eventually
from tests.gateway.dummy import dummy

pytestmark = pytest.mark.slow

ENGINE = "{ kind: embedded, model: amuse-draft, engine: { threads: 1, kv_memory: 16MiB } }"
FILE = """
server: {{ port: 0, ledger: rows.sqlite }}
deployments:
  one: {engine}
  two: {engine}
  api: {{ kind: openai, model: well, url: "{api}", api_key: k, price: free, weight: 1 }}
models:
  chat: {{ deployments: {deployments}, place: first, timeouts: {{ stall: 5s }} }}
  spare: {{ deployments: [one, two, api] }}
"""
ASKED = {
    "model": "chat",
    "messages": [{"role": "user", "content": "Tell me a story."}],
    "temperature": 0,
    "max_tokens": 2000,
    "ignore_eos": True,
    "stream": True,
}


class Fleet:
    """The server, its file, and an API of somebody else's."""

    def __init__(self, folder: Path, api: str) -> None:
        self.file = folder / "servery.yaml"
        self.api = api
        self.ledger = folder / "rows.sqlite"
        self.configure("[one, two]")
        self.server = ServerProcess("--config", str(self.file))
        self.pids: dict[str, int] = {}
        self._children: set[int] = set()
        self._undisturbed: dict[str, tuple[str, str, Any]] = {}

    def configure(self, deployments: str) -> None:
        temporary = self.file.with_suffix(".new")
        temporary.write_text(FILE.format(engine=ENGINE, api=self.api, deployments=deployments))
        temporary.replace(self.file)

    def know_engines(self) -> None:
        """Remember the engines' processes as the server has told them."""
        told = [match for line in self.server.lines if (match := re.match(r"(one|two): .*process (\d+)$", line))]
        self.pids = {match[1]: int(match[2]) for match in told}
        self._children = self._running()

    def end_engine(self, number: signal.Signals) -> None:
        """Send a signal to the engine of `one`."""
        os.kill(self.pids["one"], number)

    def await_engine(self) -> None:
        """Wait until the engine of `one` was started again, and is ready."""
        self.server.wait_line(r"the engine process of one is back")
        eventually(lambda: bool(self._running() - self._children), "another process")
        (self.pids["one"],) = self._running() - self._children
        self._children = self._running()
        eventually(lambda: self.server.ask("GET", "/ready").status == 200, "ready")

    def _running(self) -> set[int]:
        """The server's child processes."""
        pid = self.server.process.pid
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}

    def stream(self, then: Callable[[], object] = lambda: None, **fields: Any) -> tuple[list[Any], dict[str, str]]:
        """The events of an answer, and its headers; after ten of them `then` happens."""
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=60)
        asked = {**ASKED, **fields}
        path = "/v1/completions" if "prompt" in fields else "/v1/chat/completions"
        if "prompt" in fields:
            del asked["messages"]
        try:
            headers = {"content-type": "application/json"}
            connection.request("POST", path, json.dumps(asked), headers)
            answer = connection.getresponse()
            events: list[Any] = []
            for line in answer:
                if line.startswith(b"data: "):
                    events.append(json.loads(line[6:]) if line != b"data: [DONE]\n" else "done")
                    if len(events) == 10:
                        then()
            return events, dict(answer.headers)
        finally:
            connection.close()

    def undisturbed(self, **fields: Any) -> tuple[str, str, Any]:
        """What is told when nothing goes wrong; asked for once."""
        asked = json.dumps(fields, sort_keys=True)
        if asked not in self._undisturbed:
            events, headers = self.stream(**fields)
            self._undisturbed[asked] = _told(events)
            assert (headers["x-servery-deployment"], _told(events)[1:]) == ("one", ("length", "done"))
        return self._undisturbed[asked]

    def row_of(self, answer_id: str) -> LedgerRow:
        """The row of an exchange, which is on disk within about a second."""
        eventually(lambda: any(row.id == answer_id for row in rows_in(self.ledger)), "its row")
        (row,) = [row for row in rows_in(self.ledger) if row.id == answer_id]
        return row


@pytest.fixture(scope="module")
def api() -> Iterator[str]:
    """The address of somebody else's server, in a thread of its own."""
    loop, url, ready = asyncio.new_event_loop(), "", threading.Event()
    ended = asyncio.Event()

    async def serve() -> None:
        nonlocal url
        async with dummy() as server:
            server.heard.set()
            url = server.url
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait(60)
    yield url
    loop.call_soon_threadsafe(ended.set)
    thread.join(60)
    loop.close()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, api: str) -> Iterator[Fleet]:
    made = Fleet(tmp_path_factory.mktemp("fleet"), api)
    try:
        made.server.wait_ready()
        made.know_engines()
        yield made
    finally:
        made.server.end()


SEEDED = {"temperature": 1, "seed": 7}


@pytest.mark.parametrize(
    ("number", "fields"),
    [
        (signal.SIGKILL, {}),
        (signal.SIGKILL, SEEDED),
        (signal.SIGKILL, {"prompt": "Once upon a time"}),
        (signal.SIGSTOP, {}),
        (signal.SIGSTOP, SEEDED),
    ],
)
def test_an_engine_that_dies_or_hangs_in_an_answer_is_not_noticed_by_its_reader(
    fleet: Fleet, number: signal.Signals, fields: dict[str, Any]
) -> None:
    whole = fleet.undisturbed(**fields)

    cut, headers = fleet.stream(lambda: fleet.end_engine(number), **fields)

    assert headers["x-servery-deployment"] == "one"
    assert _told(cut) == whole
    row = fleet.row_of(cut[0]["id"])
    assert (row.outcome, row.deployment, row.attempts, row.generated_tokens) == ("completed", "two", 2, 2000)
    fleet.await_engine()


def test_without_a_seed_the_reader_is_told_and_the_stream_has_no_end(fleet: Fleet) -> None:
    cut, _ = fleet.stream(lambda: fleet.end_engine(signal.SIGKILL), temperature=1)
    assert cut[-1]["error"]["code"] == "service_unavailable"
    fleet.await_engine()


def test_a_model_moves_from_an_api_to_this_machine_without_one_request_failing(fleet: Fleet) -> None:
    fleet.configure("[api]")
    eventually(lambda: _tiers(fleet) == [["api"]], "the configuration with the API")
    served: list[tuple[int, str]] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            short = {**ASKED, "stream": False, "max_tokens": 4}
            del short["ignore_eos"]
            answer = fleet.server.ask("POST", "/v1/chat/completions", short)
            served.append((answer.status, answer.headers.get("x-servery-deployment", "")))

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(served) > 20, "answers of the API")
        fleet.configure("[one]")  # the one line
        eventually(lambda: served[-1][1] == "one", "answers of this machine")
        before = len(served)
        eventually(lambda: len(served) > before + 20, "more of them")
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)

    assert {status for status, _ in served} == {200}
    assert {deployment for _, deployment in served} == {"api", "one"}


def test_a_bad_file_changes_nothing_and_says_why(fleet: Fleet) -> None:
    tiers = _tiers(fleet)
    fleet.configure("[nowhere]")
    refused = fleet.server.ask("POST", "/v1/config/reload")
    assert (refused.status, refused.json["error"]["code"]) == (422, "invalid_configuration")
    assert "nowhere" in refused.json["error"]["message"]
    assert _tiers(fleet) == tiers
    fleet.configure("[one, two]")
    generation = fleet.server.ask("GET", "/v1/config").json["generation"]
    fleet.server.signal(signal.SIGHUP)
    eventually(lambda: fleet.server.ask("GET", "/v1/config").json["generation"] > generation, "SIGHUP")


def _told(events: list[Any]) -> tuple[str, str, Any]:
    """The text, however it was cut into events, why it ended, and the last event."""
    choices = [choice for event in events[:-1] for choice in event["choices"]]
    assert len({(event["id"], event["created"], event["model"]) for event in events[:-1]}) == 1
    texts = [each["text"] if "text" in each else each["delta"].get("content", "") for each in choices]
    return "".join(texts), choices[-1]["finish_reason"], events[-1]


def _tiers(fleet: Fleet) -> Any:
    return fleet.server.ask("GET", "/v1/config").json["models"]["chat"]["tiers"]
