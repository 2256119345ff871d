"""Canaries in every field that anybody can fill, and a search for them in everything that a server writes.

One real server, at its most talkative log level, in front of an upstream that repeats whatever it knows.
"""

import http.client
import itertools
import json
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from servery import cli
from servery.telemetry.ledger.reading import rows_in
from tests.e2e.collector import Collector, collecting
from tests.e2e.recording_upstream import COUNTS, Recorder, recording
from tests.e2e.server_process import Answer, ServerProcess, eventually

_NUMBERS = itertools.count(1)


def canary(of: str) -> str:
    return f"canary{next(_NUMBERS)}{of}"


CLIENT_KEY, ADMIN_KEY, WRONG_KEY = f"sk-{canary('client')}", canary("admin"), f"sk-{canary('wrong')}"
UPSTREAM_KEY, HEADER, FILE_KEY = f"sk-{canary('upstream')}", canary("header"), canary("file")
CONFIGURED = (CLIENT_KEY, ADMIN_KEY, UPSTREAM_KEY, HEADER, FILE_KEY)
SAID = canary("said")  # what the model answers: for the client, and for nobody else
CONTENT = {
    name: canary(name)
    for name in (
        "system", "user", "name", "image", "tool", "description", "schema", "argument", "result", "metadata", "owner", "stop",
        "cachekey", "unknown", "header", "cookie", "query", "forwarded", "broken",
    )
}  # fmt: skip
MODELS = ("well", "400", "422", "429", "401", "404", "500", "503", "html", "in-band", "redirecting")
FILE = """
telemetry: {{ traces: {{ endpoint: "{collector}", headers: {{ x-collector-key: "{key}" }} }} }}
server:
  port: 0
  ledger: rows.sqlite
  api_keys: ["${{CANARY_CLIENT}}"]
  admin_keys: ["{admin}"]
deployments:
{deployments}
  silent: {{ kind: openai, url: "http://127.0.0.1:{closed}/v1", api_key: "{key}", price: free }}
models:
{models}
  silent: {{ deployments: [silent], retry: {{ attempts: 1 }} }}
"""
DEPLOYMENT = (
    '  "{name}": {{ kind: openai, url: "{url}/v1", model: "{name}", {key}, headers: {{ x-team: "{header}" }}, '
    "price: {{ input: 1, output: 2 }} }}"
)


def body(model: str, **fields: Any) -> dict[str, Any]:
    """A request with a canary wherever a text may be."""
    c = CONTENT
    return {
        "model": model,
        "messages": [
            {"role": "system", "content": c["system"]},
            {"role": "user", "name": c["name"], "content": [
                {"type": "text", "text": c["user"]},
                {"type": "image_url", "image_url": {"url": f"http://{c['image']}.invalid/x.png"}}]},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": json.dumps({"x": c["argument"]})}}]},
            {"role": "tool", "tool_call_id": "a", "content": c["result"]},
        ],
        "tools": [{"type": "function", "function": {"name": c["tool"], "description": c["description"],
                   "parameters": {"type": "object", "properties": {c["schema"]: {"type": "string"}}}}}],
        "metadata": {"note": c["metadata"]}, "user": c["owner"], "stop": [c["stop"]], "prompt_cache_key": c["cachekey"],
        "x_unknown": c["unknown"],
        **fields,
    }  # fmt: skip


@dataclass
class Stage:
    """The server, what it was sent and what came back: `told` are status, headers and bodies of all answers."""

    server: ServerProcess
    upstream: Recorder
    trap: Recorder
    collector: Collector
    ledger: Path
    told: list[Answer] = field(default_factory=list)

    def ask(self, asked: Any, path: str = "/v1/chat/completions", key: str = CLIENT_KEY, **headers: str) -> Answer:
        sent = {"authorization": f"Bearer {key}", "content-type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=60)
        try:
            data = asked if isinstance(asked, bytes) else None if asked is None else json.dumps(asked).encode()
            connection.request("GET" if asked is None else "POST", path, data, sent)
            response = connection.getresponse()
            try:
                read = response.read()
            except http.client.IncompleteRead as cut:  # a stream that ends with an error is cut
                read = cut.partial
            answer = Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, read)
        finally:
            connection.close()
        self.told.append(answer)
        return answer


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "key").write_text(FILE_KEY)
    leaks = "http://db1.internal:5432/x 10.9.8.7:99 /srv/secret/app.py"
    with (
        socket.socket() as taken,
        recording(Recorder(says=SAID, leaks=leaks)) as upstream,
        recording(Recorder()) as trap,
        collecting() as collector,
    ):
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        upstream.redirect = f"{trap.url}/{UPSTREAM_KEY}"
        keys = dict.fromkeys(MODELS, f'api_key: "{UPSTREAM_KEY}"') | {"503": f"api_key_file: {folder / 'key'}"}
        deployments = [DEPLOYMENT.format(name=name, url=upstream.url, key=keys[name], header=HEADER) for name in MODELS]
        models = [f'  "{name}": {{ deployments: ["{name}"], retry: {{ attempts: 1 }} }}' for name in MODELS]
        file = folder / "servery.yaml"
        file.write_text(
            FILE.format(collector=collector.url, admin=ADMIN_KEY, key=UPSTREAM_KEY, closed=taken.getsockname()[1],
                        deployments="\n".join(deployments), models="\n".join(models))
        )  # fmt: skip
        os.environ["CANARY_CLIENT"] = CLIENT_KEY
        server = ServerProcess("--config", str(file), "--log-level", "debug")
        try:
            server.wait_ready()
            yield Stage(server, upstream, trap, collector, folder / "rows.sqlite")
        finally:
            del os.environ["CANARY_CLIENT"]
            server.end()


EVIL_HEADERS = {
    "cookie": f"session={CONTENT['cookie']}", "x_forwarded_for": CONTENT["forwarded"], "x_canary": CONTENT["header"],
    "openai_organization": CONTENT["header"], "x_real_ip": "10.0.0.9", "forwarded": "for=10.0.0.9",
    "x_internal_auth": CONTENT["header"], "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "x_servery_task": "task-1",
}  # fmt: skip


def test_an_upstream_gets_its_own_key_and_the_headers_of_a_list_and_no_other(stage: Stage) -> None:
    stage.upstream.asked.clear()
    assert stage.ask(body("well"), **EVIL_HEADERS).status == 200
    ((path, headers, sent),) = [each for each in stage.upstream.asked if each[2]]  # no probe of its health
    assert path == "/v1/chat/completions"
    assert set(headers) == {
        "host", "content-length", "content-type", "accept", "authorization", "x-team", "traceparent",
    } | ({"accept-encoding"} & set(headers)) | ({"connection"} & set(headers))  # fmt: skip
    assert (headers["authorization"], headers["x-team"]) == (f"Bearer {UPSTREAM_KEY}", HEADER)
    assert headers["host"] == f"127.0.0.1:{stage.upstream.port}"
    assert json.loads(sent) == body("well")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_gets_the_headers_of_a_list_and_none_of_the_upstream_s(stage: Stage, stream: bool) -> None:
    answer = stage.ask(body("well", stream=stream))
    known = {
        "content-type", "content-length", "transfer-encoding", "cache-control", "x-accel-buffering", "date", "connection",
        "x-request-id", "x-servery-model", "x-servery-deployment", "x-servery-attempts",
    }  # fmt: skip
    assert set(answer.headers) <= known


@pytest.mark.parametrize("status", [400, 422])
def test_of_a_refusal_s_own_words_only_those_about_the_request_reach_the_client(stage: Stage, status: int) -> None:
    error = stage.ask(body(str(status))).json["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", None, None)
    assert "[address]" in error["message"]


@pytest.mark.parametrize("place", ["body", "header", "query", "target", "image", "redirect"])
def test_nobody_outside_the_configuration_says_where_to_send_anything(stage: Stage, place: str) -> None:
    stage.trap.asked.clear()
    url = stage.trap.url
    names = ("base_url", "api_base", "api_url", "url", "endpoint", "host", "upstream", "proxy", "custom_host", "target")
    if place == "body":
        stage.ask(body("well", **dict.fromkeys(names, url), extra_body={"base_url": url}, model_info={"api_base": url}))
    elif place == "header":
        headers = {f"x_{name}": url for name in names} | {
            "host": url[7:],
            "x_portkey_custom_host": url,
            "x_forwarded_host": url[7:],
        }
        stage.ask(body("well"), **headers)
    elif place == "query":
        stage.ask(body("well"), "/v1/chat/completions?" + "&".join(f"{name}={url}" for name in names))
    elif place == "target":
        stage.ask(body("well"), f"{url}/v1/chat/completions")
    elif place == "image":
        image = {"type": "image_url", "image_url": {"url": f"{url}/x.png"}}
        stage.ask(body("well", messages=[{"role": "user", "content": [image]}]))
    else:
        assert stage.ask(body("redirecting")).status == 502
    assert stage.trap.asked == []


def test_the_ledger_s_sums_are_what_the_upstream_counted(stage: Stage) -> None:
    for stream in (False, True, False):
        stage.ask(body("well", stream=stream), x_servery_task="task-2")
    eventually(lambda: sum(row.task == "task-2" for row in rows_in(stage.ledger)) == 3, "the rows")
    rows = [row for row in rows_in(stage.ledger) if row.task == "task-2"]
    assert sum(row.prompt_tokens for row in rows) == 3 * COUNTS["prompt_tokens"]
    assert sum(row.generated_tokens for row in rows) == 3 * COUNTS["completion_tokens"]
    assert [(row.is_estimated, row.extra_tokens) for row in rows] == [(False, 0)] * 3
    assert {row.cost_nanousd for row in rows} == {1000 * (11 * 1 + 3 * 2)}
    refused = stage.ask(body("well"), x_servery_task="no task")
    assert (refused.status, refused.json["error"]["param"]) == (400, "x-servery-task")


def on_the_dashboard(stage: Stage) -> bytes:
    """All that the dashboard says, to who has a key for it and to others, of what was asked before; headers, too."""
    logins = [
        stage.ask({"key": key}, "/dashboard/api/login", x_servery_dashboard="1") for key in (WRONG_KEY, ADMIN_KEY)
    ]
    assert [each.status for each in logins] == [401, 200]
    paths = ["", "/api/snapshot", *(f"/api/history?range={each}&model=well" for each in ("1h", "24h", "7d"))]
    told = [stage.ask(None, f"/dashboard{path}", key) for path in paths for key in (ADMIN_KEY, CLIENT_KEY)]
    assert [each.status for each in told] == [200, 200] + [200, 401] * 4
    played = stage.ask(body("well", stream=True), "/dashboard/api/chat", ADMIN_KEY, x_servery_dashboard="1")
    assert (played.status, SAID in played.body.decode()) == (200, True)
    return b"".join(str(each.headers).encode() + each.body for each in (*told, *logins))


def test_no_canary_is_in_what_the_server_writes_or_tells(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    path = f"/v1/chat/completions?key={CONTENT['query']}&api_key={CONTENT['query']}"
    for model in (*MODELS, "silent"):
        for stream in (False, True):
            stage.ask(body(model, stream=stream), path, **EVIL_HEADERS)
    stage.ask(b'{"model": "well", "messages": [{"role": "user", "content": "' + CONTENT["broken"].encode())
    stage.ask(body("well", messages=CONTENT["broken"]))
    stage.ask(body("well", temperature=CONTENT["broken"]))
    assert stage.ask(body("well"), key=WRONG_KEY).status == 401
    assert stage.ask(body("well"), "/v1/config/reload", key=CLIENT_KEY).status == 403
    assert stage.ask(b"", "/v1/config/reload", key=ADMIN_KEY).status == 200
    assert stage.ask(None, "/v1/config", key=ADMIN_KEY).status == 200
    assert stage.ask(None, "/metrics", key=ADMIN_KEY).status == 200
    eventually(lambda: len(rows_in(stage.ledger)) >= 2 * (len(MODELS) + 1), "the rows")
    shown = on_the_dashboard(stage)
    for arguments in (["report", "--by", "error"], ["export", "--format", "jsonl"], ["audit"]):
        assert cli.main(["ledger", arguments[0], str(stage.ledger), *arguments[1:]]) == 0
    asked_of_ledger = capsys.readouterr().out
    stage.server.process.terminate()
    stage.server.process.wait(60)
    stage.server._reader.join(60)
    stage.server.lines += list(iter(stage.server._unread.get, None))
    written = {
        "log": stage.server.output.encode(),
        "ledger": b"".join(each.read_bytes() for each in sorted(stage.ledger.parent.glob("*rows.sqlite*"))),
        "report": asked_of_ledger.encode(),
        "traces": b"".join(stage.collector.raw),
        "dashboard": shown,
    }
    for place, data in written.items():
        assert re.findall(rb"canary\d+\w+", data) == [], place
    assert b"POST /v1/config/reload" in written["report"]
    assert b"dashboard login" in written["report"]
    assert b'"silent"' in shown
    assert {span.name for span in stage.collector.spans} >= {"POST /v1/chat/completions", "chat well", "chat in-band"}
    answers = [str(each.headers).encode() + each.body.replace(SAID.encode(), b"") for each in stage.told]
    for secret in (*CONFIGURED, "db1.internal", "10.9.8.7", "/srv/secret", str(stage.upstream.port)):
        assert [each for each in answers if secret.encode() in each] == [], secret
