"""The life of the process: starting, failing to start, a dying engine, stopping."""

import http.client
import json
import os
import re
import signal
import socket
from pathlib import Path

import openai
import pytest

from tests.e2e.server_process import ServerProcess, eventually, serving

ENDLESS = {
    "model": "amuse-draft",
    "messages": [{"role": "user", "content": "Tell me a story."}],
    "max_tokens": 3000,
    "ignore_eos": True,
    "stream": True,
}


class Stream:
    """A streamed chat under way; its first event has come."""

    def __init__(self, server: ServerProcess, **fields: object) -> None:
        self._connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
        body = json.dumps({**ENDLESS, **fields})
        self._connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        self._response = self._connection.getresponse()
        assert self._response.status == 200
        self._response.readline()

    def last_event(self) -> str:
        """Read to the end; the data of the last event."""
        try:
            body = self._response.read()
        except http.client.IncompleteRead as cut:  # as a stream is that ends with an error
            body = cut.partial
        lines = body.decode().strip().splitlines()
        self._connection.close()
        return lines[-1].removeprefix("data: ")


def failed_start(*arguments: str) -> tuple[int, str]:
    """Exit code and output of a server that does not start."""
    server = ServerProcess(*arguments)
    try:
        return server.wait_exit(), server.output
    finally:
        server.end()


def test_what_was_resolved_is_printed_once(server: ServerProcess) -> None:
    for fact in ("Qwen3ForCausalLM", "threads", "kernels: ", "KV cache", "in blocks of", "bytes, in", "context"):
        assert server.output.count(fact) == 2, fact  # once for each of the two models


def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, output = failed_start("amuse-draft", "--port", str(port))

    assert code == 2
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("/no/such/model",), "'/no/such/model' is neither a directory"),
        (("amuse-draft", "--kv-memory", "1KiB"), "memory"),
        (("amuse-draft", "--max-model-len", "1000000"), "--max-model-len is 1000000"),
        (("amuse-draft", "--host", "no.such.host.invalid"), "cannot be resolved"),
    ],
)
def test_what_cannot_be_served_is_said_without_a_traceback(arguments: tuple[str, ...], message: str) -> None:
    code, output = failed_start("--port", "0", *arguments)

    assert (code in (1, 2), message in output, "Traceback" in output) == (True, True, False), output


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", b'{"architectures": ["MambaForCausalLM"]}', "MambaForCausalLM"),
        ("model.safetensors", b"\x00" * 100, "model.safetensors"),
        ("tokenizer.json", None, "tokenizer.json"),
    ],
    ids=["unknown architecture", "truncated weights", "no tokenizer"],
)
def test_a_broken_checkpoint_names_the_file(tmp_path: Path, file: str, content: bytes | None, message: str) -> None:
    from servery import amuse

    for source in amuse.path("draft").iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(content)
    code, output = failed_start("--port", "0", f"broken={tmp_path}")

    assert (code, message in output, "Traceback" in output) == (1, True, False), output


def test_keys_are_asked_for_and_never_shown() -> None:
    with serving("amuse-draft", "--api-key", "secret-1", "--api-key", "secret-2") as server:
        chat = {**ENDLESS, "stream": False, "max_tokens": 3}
        assert server.ask("GET", "/health").status == 200
        assert server.ask("GET", "/metrics").status == 401
        assert server.ask("POST", "/v1/chat/completions", chat).status == 401
        assert server.ask("POST", "/v1/chat/completions", chat, authorization="Bearer secret-2").status == 200
        with (
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.models.list()
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
    assert "secret" not in server.output
    assert "wrong" not in server.output


def test_a_dead_engine_is_told_in_band_and_comes_back() -> None:
    with serving("amuse-draft") as server:
        stream = Stream(server)
        os.kill(server.engine_pid, signal.SIGKILL)

        error = json.loads(stream.last_event())["error"]
        assert (error["type"], error["code"]) == ("server_error", "service_unavailable")
        eventually(lambda: server.ask("GET", "/ready").status == 503, "not ready")
        assert server.ask("GET", "/health").status == 503
        refused = server.ask("POST", "/v1/chat/completions", {**ENDLESS, "max_tokens": 3})
        assert refused.status in (200, 503)
        eventually(lambda: server.ask("GET", "/ready").status == 200, "ready again")
        answer = server.ask("POST", "/v1/chat/completions", {**ENDLESS, "stream": False, "max_tokens": 3})
        assert answer.json["usage"]["completion_tokens"] == 3
        assert server.ask("GET", "/health").status == 200
        assert server.metric("engine_failures_total", cause="died") == 1
        assert server.metric("engine_restarts_total") == 1


def test_a_hung_engine_fails_liveness_and_is_replaced() -> None:
    """SIGSTOP is the purest hang: no beat, no step, no end of the connection. How soon: `test_watchdog`."""
    with serving("amuse-draft") as server:
        stream = Stream(server)
        hung = server.engine_pid
        os.kill(hung, signal.SIGSTOP)

        eventually(lambda: server.ask("GET", "/health").status == 503, "liveness fails")
        error = json.loads(stream.last_event())["error"]
        assert (error["code"], "The engine hung" in error["message"]) == ("service_unavailable", True)
        eventually(lambda: server.ask("GET", "/ready").status == 200, "ready again")
        answer = server.ask("POST", "/v1/chat/completions", {**ENDLESS, "stream": False, "max_tokens": 3})
        assert answer.json["usage"]["completion_tokens"] == 3
        assert server.metric("engine_failures_total", cause="hung") == 1
        assert not Path(f"/proc/{hung}").exists()


def test_sigterm_finishes_what_is_under_way_and_takes_nothing_new() -> None:
    with serving("amuse-draft", "--drain-timeout", "60") as server:
        stream = Stream(server, max_tokens=1500)
        server.signal(signal.SIGTERM)
        server.wait_line("Stopping")

        late = server.ask("POST", "/v1/chat/completions", ENDLESS)
        assert (late.status, late.json["error"]["code"]) == (503, "service_unavailable")
        assert late.headers["retry-after"] == "1"
        assert server.ask("GET", "/ready").status == 503
        assert stream.last_event() == "[DONE]"
        assert server.wait_exit() == 0
    assert "Traceback" not in server.output


def test_what_takes_longer_than_the_drain_is_told_in_band() -> None:
    with serving("amuse-draft", "--drain-timeout", "0.2") as server:
        stream = Stream(server)
        server.signal(signal.SIGTERM)

        assert json.loads(stream.last_event())["error"]["code"] == "service_unavailable"
        assert server.wait_exit() == 0
    assert "Traceback" not in server.output


def test_a_second_signal_stops_at_once() -> None:
    with serving("amuse-draft", "--drain-timeout", "60") as server:
        stream = Stream(server)
        server.signal(signal.SIGINT)
        server.wait_line("Stopping")
        server.signal(signal.SIGINT)

        assert json.loads(stream.last_event())["error"]["code"] == "service_unavailable"
        assert server.wait_exit() == 128 + signal.SIGINT


def test_no_engine_outlives_its_server() -> None:
    with serving("amuse-draft") as server:
        pid = server.engine_pid
        server.process.kill()
        server.process.wait()

        def is_gone() -> bool:
            status = Path(f"/proc/{pid}/stat")
            try:
                return re.search(r"\) ([A-Z])", status.read_text())[1] == "Z"  # type: ignore[index]
            except FileNotFoundError:
                return True

        eventually(is_gone, "the engine's end")
