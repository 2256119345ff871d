"""Quantized models behind a real server, and through the whole command line."""

import json
import re
import subprocess
import sys
import urllib.request

import pytest

from servery import amuse
from servery.engine.architecture import ModelConfig
from tests.e2e.server_process import serving

pytestmark = pytest.mark.slow

QUESTION = {"messages": [{"role": "user", "content": "What is 17 + 25?"}], "temperature": 0, "max_tokens": 40}


def ask(server, model):
    body = json.dumps({**QUESTION, "model": model}).encode()
    request = urllib.request.Request(f"{server.url}/v1/chat/completions", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())["choices"][0]["message"]["content"]


def held_bytes(server):
    """What the start line and the metrics say of the weights: a name and bytes, each."""
    name, size = re.search(r"weights (\S+) \(computed in float32\) in (\d+) bytes", server.output).groups()
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=60) as answer:
        metrics = answer.read().decode()
    label, value = re.search(r'^servery_weight_bytes\{dtype="([^"]+)",.*\} (\S+)$', metrics, re.MULTILINE).groups()
    return (name, int(size)), (label, int(float(value)))


@pytest.mark.parametrize(("scheme", "share"), [("int8", 0.37), ("int4", 0.28)])
def test_a_model_that_is_quantized_while_loading_answers(scheme, share):
    dense = ModelConfig.load(amuse.path()).weight_bytes(4)
    with serving("amuse", "--quantize", scheme) as server:
        assert ask(server, "amuse") == "17 + 25 = 42"
        told, measured = held_bytes(server)
        assert told == measured
        assert told[0] == scheme
        assert told[1] < share * dense


def test_a_checkpoint_that_was_written_is_served_at_once(tmp_path):
    out = tmp_path / "amuse-int4"
    command = [sys.executable, "-m", "servery", "quantize", "amuse", str(out), "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "int4 in groups of 32" in done.stdout
    with serving(str(out)) as server:
        assert ask(server, "amuse-int4") == "17 + 25 = 42"
        assert [name for name, _ in held_bytes(server)] == ["compressed-tensors"] * 2
