"""A model that two processes compute is served like any other."""

import json
import signal
from pathlib import Path

import pytest

from servery.engine.llm import LLM
from servery.engine.request import SamplingParams
from tests.e2e.server_process import ServerProcess, serving
from tests.engine import tiny_model
from tests.engine.ranks import nodes

OPTIONS = ("--device", "cpu", "--tensor-parallel", "2", "--kv-memory", "4MiB", "--threads", "1")


def test_a_model_of_two_processes_answers_as_that_of_one(tmp_path: Path) -> None:
    folder = tiny_model.save(tmp_path)
    question = [{"role": "user", "content": "hello world"}]
    params = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
    expected = LLM(folder, threads=1, kv_memory_bytes=4 << 20).chat([question], params)[0].text
    with serving(str(folder), *OPTIONS) as server:
        body = {"model": folder.name, "messages": question, "temperature": 0, "max_tokens": 8, "ignore_eos": True}
        answer = server.ask("POST", "/v1/chat/completions", body)
        assert answer.status == 200, answer.body
        assert answer.json["choices"][0]["message"]["content"] == expected
        assert "2 processes share each layer" in server.output


@pytest.mark.slow
def test_a_server_is_unready_while_another_machine_is_lost_and_comes_back_with_it(tmp_path: Path) -> None:
    folder = tiny_model.save(tmp_path)
    more = ("--pipeline-parallel", "2", "--nnodes", "2", "--master-addr", nodes.ADDRESS, "--kv-memory", "4MiB")
    body = {"model": folder.name, "prompt": "hello world", "temperature": 0, "max_tokens": 8, "ignore_eos": True}
    with nodes.worker(folder) as other, serving(str(folder), "--device", "cpu", "--threads", "1", *more) as server:
        assert "in 2 stages, on 2 machines" in server.output
        first = server.ask("POST", "/v1/completions", body)
        assert first.status == 200, first.body
        other.kill()
        server.wait_line(r"the engine ends: node 1 \(127\.0\.0\.1\): it is gone")
        server.wait_line(r"waiting for 1 other nodes")
        assert server.ask("GET", "/ready").status == 503
        with nodes.worker(folder) as another:
            server.wait_line(r"is back \(restart 1\)", timeout_s=180)
            again = server.ask("POST", "/v1/completions", body)
            assert (again.status, again.json["choices"]) == (200, first.json["choices"])
            server.process.terminate()
            server.process.wait(60)
            assert another.wait(60) == 0


@pytest.mark.slow
def test_machines_that_are_others_are_refused_with_the_reason_and_the_right_one_is_taken(tmp_path: Path) -> None:
    folder, other = tiny_model.save(tmp_path / "a"), tiny_model.save(tmp_path / "b")
    config = json.loads((other / "config.json").read_text()) | {"rms_norm_eps": 0.5}
    (other / "config.json").write_text(json.dumps(config))
    more = ("--pipeline-parallel", "2", "--nnodes", "2", "--master-addr", nodes.ADDRESS, "--kv-memory", "4MiB")
    server = ServerProcess(str(folder), "--device", "cpu", "--threads", "1", *more)
    try:
        server.wait_line(r"waiting for 1 other nodes")
        for model, options, reason in (
            (other, (), "its model is another than the head's: config.json differ"),
            (folder, ("--pipeline-parallel", "4"), "its --pipeline-parallel is 4, the head's 2"),
        ):
            with nodes.worker(model, options=options) as wrong:
                assert wrong.wait(60) == 1
                assert wrong.stderr is not None
                assert reason in wrong.stderr.read()
            server.wait_line(f"node 1 from 127.0.0.1 was refused: {reason}")
        with nodes.worker(folder):
            server.wait_ready()
            assert server.ask("GET", "/ready").status == 200
            server.signal(signal.SIGTERM)
            assert server.wait_exit() == 0
    finally:
        server.end()


@pytest.mark.slow
def test_a_machine_that_never_comes_ends_the_start_with_its_number(tmp_path: Path) -> None:
    folder = str(tiny_model.save(tmp_path))
    more = ("--pipeline-parallel", "2", "--nnodes", "2", "--master-addr", nodes.ADDRESS, "--join-timeout", "0")
    message = rf"node 1 of 2 did not come to {nodes.ADDRESS}:29500 within 0 s"
    with pytest.raises(AssertionError, match=message), serving(folder, "--device", "cpu", *more):
        pass
