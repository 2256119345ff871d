"""A GGUF file is served like any other model."""

import re

import pytest

from servery import amuse
from servery.engine.architecture import ModelConfig
from tests.e2e.server_process import serving
from tests.engine.gguf.exporter import export

QUESTIONS = ["How many minutes are 3 hours?", "What is 12 + 30?", "Say hello.", "Tell me a story about a cat."]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """amuse as it is shipped, and as three files."""
    folder = tmp_path_factory.mktemp("gguf")
    kinds = {"exact": "F16", "q8": "Q8_0"}
    files = [f"{name}={export(amuse.path(), folder / f'{name}.gguf', kind)}" for name, kind in kinds.items()]
    export(amuse.path(), folder / "amuse-Q4_0.gguf", "Q4_0", split_max_tensors=40)
    with serving("amuse", *files, str(folder / "amuse-Q4_0-00001-of-00003.gguf")) as started:
        yield started


def answer(server, model, question, **options):
    body = {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 48}
    reply = server.ask("POST", "/v1/chat/completions", body | options)
    assert reply.status == 200, reply.body
    return reply.json["choices"][0]


def test_a_file_is_served_under_its_name_or_another(server):
    models = [model["id"] for model in server.ask("GET", "/v1/models").json["data"]]
    assert models == ["amuse", "exact", "q8", "amuse-Q4_0"]


@pytest.mark.parametrize("question", QUESTIONS)
def test_half_precision_answers_as_the_checkpoint(question, server):
    assert answer(server, "exact", question) == answer(server, "amuse", question)


@pytest.mark.parametrize("model", ["q8", "amuse-Q4_0"])
def test_quantized_files_answer_what_is_right(model, server):
    found = answer(server, model, "What is 12 + 30?")
    assert (found["message"]["content"], found["finish_reason"]) == ("12 + 30 = 42", "stop")


def test_the_text_of_a_request_is_cut_as_by_the_checkpoint(server):
    body = {"prompt": "naïve café — 12 + 30 = 42\n\n你好 <|end|>"}
    counted = {name: server.ask("POST", "/tokenize", body | {"model": name}).json for name in ("amuse", "q8")}
    assert counted["q8"] == counted["amuse"]


def test_weights_stay_packed(server):
    told = (re.match(r"([\w-]+): .* weights .+ in (\d+) bytes", line) for line in server.lines)
    held = {match[1]: int(match[2]) for match in told if match}
    assert held["exact"] == held["amuse"]
    # amuse is held in 2 bytes where kernels are compiled, else in 4. Rows of 432 values, a third of all, do not divide
    # into blocks; they come as F16 and are computed in float32.
    whole = ModelConfig.load(amuse.path()).weight_bytes(4)
    assert held["q8"] < 0.45 * whole
    assert held["amuse-Q4_0"] < 0.36 * whole
