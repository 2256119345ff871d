"""Models of a real server come and go: on demand, by admin calls, when idle; answers stay the same to the byte."""

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server_process import Answer, ServerProcess, eventually, serving
from tests.engine import tiny_model

USER, ADMIN = {"authorization": "Bearer user"}, {"authorization": "Bearer root"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that can be loaded and one that cannot."""
    root = tmp_path_factory.mktemp("models")
    tiny_model.save(root / "idle")
    (root / "broken").mkdir()
    (root / "broken" / "config.json").write_text("{}")
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[ServerProcess]:
    with serving(
        "amuse", "--models-dir", str(root), "--load-on-demand", "--keep-alive", "idle=0.2",
        "--sleep-level", "1", "--memory", "1100MiB", "--api-key", "user", "--admin-key", "root",
    ) as started:  # fmt: skip
        yield started


def complete(server: ServerProcess, model: str) -> Answer:
    body = {"model": model, "prompt": "hello world", "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    return server.ask("POST", "/v1/completions", body, **USER)


def text(server: ServerProcess, model: str) -> str:
    answer = complete(server, model)
    assert answer.status == 200, answer.body
    said: str = answer.json["choices"][0]["text"]
    return said


def tell(server: ServerProcess, path: str, body: Any = None) -> Any:
    answer = server.ask("POST", path, body, **ADMIN)
    assert answer.status == 200, answer.body
    return answer.json


def state(server: ServerProcess, model: str) -> str:
    found: str = server.ask("GET", f"/v1/models/{model}", **USER).json["state"]
    return found


def metric(server: ServerProcess, name: str, **labels: str) -> float:
    lines = server.ask("GET", "/metrics", **ADMIN).body.decode().splitlines()
    found = [line for line in lines if line.startswith(f"servery_{name}{{")]
    return sum(float(line.split()[-1]) for line in found if all(f'{k}="{v}"' in line for k, v in labels.items()))


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_model_comes_when_asked_for_sleeps_when_told_and_wakes_with_the_same_answer(server: ServerProcess) -> None:
    assert server.engine_pid == 0
    assert server.ask("GET", "/ready").status == 200
    assert (state(server, "amuse"), metric(server, "model_loads_total")) == ("unloaded", 0)
    before = text(server, "amuse")
    pid = int(server.wait_line(r"^amuse: .* process (\d+)$")[1])
    weight_bytes = metric(server, "weight_bytes", model_name="amuse")
    awake = resident_bytes(pid)

    assert server.ask("POST", "/sleep?model=amuse", **USER).status == 403
    assert [model["state"] for model in tell(server, "/sleep?level=1&model=amuse")["data"]] == ["sleeping"]
    assert awake - resident_bytes(pid) > 0.9 * weight_bytes
    assert server.ask("GET", "/is_sleeping?model=amuse", **USER).json == {"is_sleeping": True}
    assert server.ask("GET", "/ready").status == 200

    assert text(server, "amuse") == before
    assert resident_bytes(pid) > 0.9 * weight_bytes
    assert server.ask("GET", "/is_sleeping?model=amuse", **USER).json == {"is_sleeping": False}
    assert (metric(server, "model_loads_total"), metric(server, "model_releases_total", by="admin")) == (2, 1)


def test_an_idle_model_sleeps_when_its_time_is_over_and_the_next_request_wakes_it(server: ServerProcess) -> None:
    before = text(server, "idle")
    eventually(lambda: state(server, "idle") == "sleeping", "the idle model sleeps")
    assert metric(server, "model_releases_total", model_name="idle", by="keep_alive") >= 1
    assert metric(server, "model_state", model_name="idle", state="sleeping") == 1
    assert text(server, "idle") == before


def test_models_are_unloaded_and_loaded_while_another_answers(server: ServerProcess, root: Path) -> None:
    expected, answers, stop = text(server, "amuse"), [], threading.Event()

    def go_on() -> None:
        while not stop.wait(0.05):
            answers.append(text(server, "amuse"))

    traffic = threading.Thread(target=go_on)
    traffic.start()
    try:
        assert tell(server, "/v1/models/unload", {"model": "idle"})["state"] == "unloaded"
        assert state(server, "idle") == "unloaded"
        shutil.copytree(root / "idle", root / "late")
        assert tell(server, "/v1/models/load", {"model": "late"})["state"] == "loaded"
        assert text(server, "late")
        answered = len(answers)
        eventually(lambda: len(answers) > answered, "the other model goes on answering")
    finally:
        stop.set()
        traffic.join()
    assert set(answers) == {expected}
    assert metric(server, "model_loads_total", model_name="amuse") == 2


def test_a_model_that_cannot_be_loaded_says_why_and_harms_nobody(server: ServerProcess) -> None:
    asked = complete(server, "broken")
    assert (asked.status, asked.json["error"]["code"]) == (503, "service_unavailable")
    assert server.ask("POST", "/v1/models/load", {"model": "nowhere"}, **ADMIN).status == 404
    refused = server.ask("POST", "/v1/models/load", {"model": "broken"}, **ADMIN)
    assert (refused.status, refused.json["error"]["code"]) == (503, "model_load_failed")
    listed = server.ask("GET", "/v1/models/broken", **USER).json
    assert listed["state"] == "failed"
    assert "could not be loaded: " + listed["load_error"] in asked.json["error"]["message"]
    assert server.ask("GET", "/ready").status == 200
    assert metric(server, "model_load_failures_total", model_name="broken") == 2


@pytest.mark.slow
def test_the_model_used_longest_ago_makes_room(tmp_path: Path) -> None:
    folders = [tiny_model.save(tmp_path / name) or str(tmp_path / name) for name in ("one", "two", "three")]
    with serving(*folders, "--load-on-demand", "--memory", "1100MiB") as server:
        for name in ("one", "two", "one", "three"):
            assert complete(server, name).status == 200
        assert [state(server, name) for name in ("one", "two", "three")] == ["loaded", "sleeping", "loaded"]
        assert metric(server, "model_releases_total", by="memory") == 1
