"""A server that is killed while it answers: what its ledger has, and what the next start says of the rest."""

import contextlib
import http.client
import json
import re
import threading
from pathlib import Path

import pytest

from servery.telemetry.ledger.reading import rows_in
from tests.e2e.recording_upstream import Recorder, recording
from tests.e2e.server_process import ServerProcess, eventually

FILE = """
server: {{ port: 0, ledger: rows.sqlite }}
deployments: {{ a: {{ kind: openai, url: "{url}/v1", model: well, api_key: k, price: free }} }}
models: {{ m: {{ deployments: [a], retry: {{ attempts: 1 }} }} }}
"""
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})


class Clients:
    """Four that ask again and again; an item for each request that was sent, and for each whole answer."""

    def __init__(self, server: ServerProcess) -> None:
        self.sent: list[None] = []
        self.answered: list[None] = []
        self._server = server
        self.threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(4)]
        for thread in self.threads:
            thread.start()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(self._server.host, self._server.port, timeout=60)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            while True:
                self.sent.append(None)
                connection.request("POST", "/v1/chat/completions", BODY, {"content-type": "application/json"})
                assert connection.getresponse().read()
                self.answered.append(None)


@pytest.mark.slow
def test_a_kill_loses_the_newest_at_most_and_the_next_start_says_what(tmp_path: Path) -> None:
    """Rows are written while requests go on; what has been written when the kill comes stays."""
    ledger = tmp_path / "rows.sqlite"
    with recording(Recorder()) as upstream:
        (tmp_path / "servery.yaml").write_text(FILE.format(url=upstream.url))
        server = ServerProcess("--config", str(tmp_path / "servery.yaml"))
        later: ServerProcess | None = None
        try:
            server.wait_ready()
            clients = Clients(server)
            eventually(lambda: ledger.exists() and len(rows_in(ledger)) >= 20, "the first rows")
            answered = len(clients.answered)
            eventually(lambda: len(rows_in(ledger)) >= answered, "rows of all that had been answered")
            server.process.kill()
            for thread in clients.threads:
                thread.join(60)
            kept = len(rows_in(ledger))
            later = ServerProcess("--config", str(tmp_path / "servery.yaml"))
            told = later.wait_line(
                re.compile(
                    r"did not come to its end: (\d+) rows of the ledger are lost, and (\d+) exchanges were under way"
                )
            )
            later.wait_ready()
        finally:
            for each in (server, later):
                if each is not None:
                    each.end()
    lost, under_way = int(told[1]), int(told[2])
    assert kept >= answered
    assert len(clients.answered) <= kept + lost + under_way <= len(clients.sent)
    assert under_way <= 4
    assert len(rows_in(ledger)) == kept
