"""A model that two processes compute is served like any other."""

from pathlib import Path

from servery.engine.llm import LLM
from servery.engine.request import SamplingParams
from tests.e2e.server_process import serving
from tests.engine import tiny_model

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
