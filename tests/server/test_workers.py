import contextlib
import dataclasses
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest

from servery.config.types import Config, DeploymentConfig, Kind, Limits, ModelConfig, Tier
from servery.server.option_error import OptionError
from servery.server.options import ServeOptions
from servery.server.request import Request
from servery.server.siblings import merged
from servery.server.types import Event
from servery.server.workers import Post, check_workers
from servery.upstream.ask import Api, new_answer_id
from tests.ports import free_port

ELSEWHERE = DeploymentConfig(name="d", kind=Kind.VLLM, tier=Tier.SELF_HOSTED, model="x", max_concurrency=7)

SCOPE = {"method": "GET", "path": "/", "headers": []}


def configuration(**others: object) -> Config:
    deployments = {"d": ELSEWHERE}
    return dataclasses.replace(
        Config(models={"m": ModelConfig(name="m", tiers=(("d",),))}, deployments=deployments), **others
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (ServeOptions(models=(), config=configuration(owners={"a": Limits(concurrency=1)}), workers=2), "Redis"),
        (ServeOptions(models=(), config=configuration(), files=Path("x"), workers=2), "belong to one process"),
        (
            ServeOptions(
                models=(),
                config=configuration(deployments={"d": dataclasses.replace(ELSEWHERE, kind=Kind.EMBEDDED)}),
                workers=2,
            ),
            "an engine belongs to one process",
        ),
    ],
)
def test_what_processes_cannot_have_together_is_refused(options: ServeOptions, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        check_workers(options)
    check_workers(dataclasses.replace(options, workers=1))


def test_the_parts_of_all_workers_are_the_whole() -> None:
    parts = [Post(number, 3, Path(), 0).share(configuration()).deployments["d"].max_concurrency for number in range(3)]
    assert parts == [3, 2, 2]


def test_pages_become_one_whose_samples_tell_their_worker() -> None:
    page = b'# HELP a_total A.\n# TYPE a_total counter\na_total{x="1"} 2.0\n# HELP b B.\n# TYPE b gauge\nb 3.0\n'
    assert merged([("0", page), ("1", b""), ("2", page)]).decode().splitlines() == [
        "# HELP a_total A.",
        "# TYPE a_total counter",
        'a_total{worker="0",x="1"} 2.0',
        'a_total{worker="2",x="1"} 2.0',
        "# HELP b B.",
        "# TYPE b gauge",
        'b{worker="0"} 3.0',
        'b{worker="2"} 3.0',
    ]


KEY, READER, VIEWER, LIMIT = "sk-limited", "sk-reader", "sk-viewer", 20


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> "Iterator[tuple[subprocess.Popen[str], int]]":
    """Two workers that count limits together, and their port."""
    port = free_port()
    path = tmp_path_factory.mktemp("workers") / "servery.yaml"
    path.write_text(
        f"server: {{port: {port}, metrics_keys: [{READER}], viewer_keys: [{VIEWER}]}}\n"
        f"limits: {{redis: '{redis_url}', deadline: 5s}}\n"
        f"keys: {{k: {{sha256: {sha256(KEY.encode()).hexdigest()}, limits: {{requests_per_minute: {LIMIT}}}}}}}\n"
        "deployments: {d: {kind: vllm, url: 'http://127.0.0.1:9/v1', model: x, price: free}}\n"
        "models: {m: {deployments: [d], retry: {attempts: 1}}}\n"
    )
    command = [sys.executable, "-m", "servery", "serve", "--config", str(path), "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "is ready" in process.stdout.readline()
        yield process, port
        process.kill()


def page(port: int) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"authorization": f"Bearer {READER}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def both(port: int) -> str:
    """The page once both workers are on it."""
    while not all(f'worker="{number}"' in (told := page(port)) for number in range(2)):
        time.sleep(0.02)
    return told


def children(process: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def status(port: int) -> int:
    """Of an answer to a request on a connection of its own, which the system gives to one of the workers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'
    with contextlib.closing(connection):
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", body, headers)
        return connection.getresponse().status


def test_the_parent_sleeps_while_its_workers_serve(served: "tuple[subprocess.Popen[str], int]") -> None:
    process, _ = served
    while not re.search(r"^State:\tS", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE):
        time.sleep(0.02)  # one that looks for signals without end is running whenever somebody looks


def test_workers_count_limits_together_to_the_last_request(served: "tuple[subprocess.Popen[str], int]") -> None:
    _, port = served
    both(port)
    began_s = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda _: status(port), range(3 * LIMIT)))
    regained = LIMIT / 60 * (time.monotonic() - began_s)
    admitted = sum(
        each == 503 for each in statuses
    )  # the deployment is not there: that is what who is admitted is told
    assert set(statuses) == {429, 503}
    assert LIMIT <= admitted <= LIMIT + regained
    asked = re.findall(r'servery_http_requests_total\{worker="(.)"[^}]*route="/v1/chat/completions"', both(port))
    assert set(asked) == {"0", "1"}


def told(
    port: int, method: str, path: str, body: bytes = b"", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    """An answer to a request on a connection of its own, and its body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer, answer.read()


def test_the_dashboard_of_each_worker_tells_of_all_and_knows_the_sessions_of_all(
    served: "tuple[subprocess.Popen[str], int]",
) -> None:
    _, port = served
    both(port)
    assert {status(port) for _ in range(8)} <= {429, 503}
    page = {"content_type": "application/json", "x_servery_dashboard": "1"}
    answer, _ = told(port, "POST", "/dashboard/api/login", json.dumps({"key": VIEWER}).encode(), **page)
    cookie = (answer.getheader("set-cookie") or "").partition(";")[0]
    asked = re.findall(r"servery_exchanges_total\{.*\} (\d+)", both(port))
    for _ in range(6):  # whichever worker it is
        answer, body = told(port, "GET", "/dashboard/api/snapshot", cookie=cookie)
        seen = json.loads(body)
        assert (answer.status, seen["workers"]) == (200, {"answering": 2, "of": 2})
        assert seen["summaries"]["m"]["exchanges"] == sum(map(int, asked))
        assert seen["deployments"]["d"]["breaker"] in ("open", "half_open", "closed")


def test_workers_share_a_port_are_replaced_and_stop_together(served: "tuple[subprocess.Popen[str], int]") -> None:
    process, port = served
    assert 'servery_http_requests_total{worker="' in both(port) + page(port)
    before = children(process.pid)
    os.kill(before[0], signal.SIGKILL)
    while len(set(children(process.pid)) - {before[0]}) < 2:
        time.sleep(0.02)
    both(port)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def test_forks_do_not_give_the_same_ids() -> None:
    """They begin with one state of chance; two rows of the ledger with one id would be one."""

    def told_by_a_fork() -> bytes:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, f"{new_answer_id(Api.CHAT)} {Request(SCOPE, receive, 0.0).id}".encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writing)
        with os.fdopen(reading, "rb") as told:
            return told.read()

    async def receive() -> Event:
        return {}

    first, second = (told_by_a_fork().split() for _ in range(2))
    assert all(a != b for a, b in zip(first, second, strict=True))
