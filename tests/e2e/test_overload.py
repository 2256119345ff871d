"""What a server says that has more to do than it may take on."""

import json
import socket
from collections.abc import Iterator

import openai
import pytest

from tests.e2e.server_process import ServerProcess, eventually, serving

ENDLESS = {
    "model": "amuse-draft",
    "messages": [{"role": "user", "content": "Tell me a story."}],
    "max_tokens": 4000,
    "ignore_eos": True,
}
PATH = "/v1/chat/completions"


@pytest.fixture
def narrow() -> Iterator[ServerProcess]:
    """A server that computes one sequence at a time and lets one more wait."""
    with serving("amuse-draft", "--max-running", "1", "--max-waiting-requests", "1") as server:
        yield server


@pytest.fixture
def hasty() -> Iterator[ServerProcess]:
    """A server that gives an answer a second."""
    with serving("amuse", "--request-timeout", "1") as server:
        yield server


def open_chat(server: ServerProcess, model: str = "amuse-draft") -> socket.socket:
    """A long chat on a raw socket, whose answer nobody has read yet."""
    body = json.dumps({**ENDLESS, "model": model, "stream": True})
    sock = socket.create_connection((server.host, server.port), timeout=60)
    head = (
        f"POST {PATH} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    sock.sendall(head.encode() + body.encode())
    return sock


def test_a_full_queue_is_a_429_that_says_when_to_come_back(narrow: ServerProcess) -> None:
    with open_chat(narrow):
        eventually(lambda: narrow.metric("num_requests_running") == 1, "one runs")
        with open_chat(narrow):
            eventually(lambda: narrow.metric("num_requests_waiting") == 1, "one waits")
            answer = narrow.ask("POST", PATH, ENDLESS)
            with (
                openai.OpenAI(base_url=f"{narrow.url}/v1", api_key="none", max_retries=0) as client,
                pytest.raises(openai.RateLimitError),
            ):
                client.completions.create(model="amuse-draft", prompt="x")

    assert (answer.status, answer.json["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(answer.headers["retry-after"]) >= 1
    assert int(answer.headers["retry-after-ms"]) >= 1
    eventually(lambda: narrow.metric("kv_blocks", state="held") == 0, "both gone")
    assert narrow.metric("requests_rejected_total") == 2


def test_an_answer_over_its_time_is_a_504_or_an_event(hasty: ServerProcess) -> None:
    with open_chat(hasty, "amuse") as sock:
        whole = hasty.ask("POST", PATH, {**ENDLESS, "model": "amuse"})
        streamed = b""
        while piece := sock.recv(1 << 16):
            streamed += piece

    # No machine computes 4000 tokens one by one in a second: 10 MB of weights are read for each. A slow one has not
    # begun to answer by then, and says the same with a status.
    assert (whole.status, whole.json["error"]["code"], whole.headers["x-should-retry"]) == (504, "timeout", "false")
    assert b'"code":"timeout"' in streamed[-400:]
    assert b"[DONE]" not in streamed
    eventually(lambda: hasty.metric("kv_blocks", state="held") == 0, "both gone")
