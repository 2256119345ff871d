"""Adapters of a real server, asked for by the official client: `base:adapter`, loaded and unloaded while it runs."""

import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from tests.e2e.server_process import Answer, ServerProcess, eventually, serving
from tests.engine import checkpoints, tiny_model
from tests.engine.lora import adapters

KEY = {"authorization": "Bearer key"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny base, adapters that fit it, and one that does not."""
    root = tmp_path_factory.mktemp("lora")
    tiny_model.save(root / "base")
    for seed, name in enumerate(("one", "two", "three", "vanishing"), 1):
        adapters.save(root / "adapters" / name, checkpoints.qwen3(), seed=seed)
    adapters.save(root / "adapters" / "foreign", checkpoints.qwen2(hidden_size=32), targets=("q_proj",))
    adapters.save(root / "adapters" / "wide", checkpoints.qwen3(), rank=16)
    truncated = adapters.save(root / "adapters" / "truncated", checkpoints.qwen3()) / "adapter_model.safetensors"
    truncated.write_bytes(truncated.read_bytes()[:2000])
    return root


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[ServerProcess]:
    with serving(
        f"tiny={root / 'base'}", "--lora", f"one={root / 'adapters' / 'one'}", "--lora-dir", str(root / "adapters"),
        "--max-loras", "3", "--max-lora-rank", "8", "--api-key", "other", "--admin-key", "key",
    ) as started:  # fmt: skip
        yield started


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="key", max_retries=0, timeout=60) as client:
        yield client


def load(server: ServerProcess, name: str, path: str) -> Answer:
    return server.ask("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path}, **KEY)


def unload(server: ServerProcess, name: str) -> Answer:
    return server.ask("POST", "/v1/unload_lora_adapter", {"lora_name": name}, **KEY)


def text(client: openai.OpenAI, model: str, prompt: str = "hello world") -> str:
    answer = client.completions.create(
        model=model, prompt=prompt, max_tokens=12, temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.model == model
    return answer.choices[0].text


def test_adapters_come_and_go_for_the_official_client(client: openai.OpenAI, server: ServerProcess) -> None:
    assert [(model.id, model.parent, model.root) for model in client.models.list()] == [  # type: ignore[attr-defined]
        ("tiny", None, "tiny"),
        ("tiny:one", "tiny", "tiny"),
    ]
    assert load(server, "two", "two").status == 200
    assert client.models.retrieve("tiny:two").id == "tiny:two"
    names = ("tiny", "tiny:one", "tiny:two")
    alone = {name: text(client, name) for name in names}
    assert len(set(alone.values())) == 3
    with ThreadPoolExecutor(9) as pool:
        together = list(pool.map(lambda name: (name, text(client, name)), names * 3))
    assert together == [(name, alone[name]) for name in names * 3]

    vectors = [client.embeddings.create(model=name, input="hello").data[0].embedding for name in names[:2]]
    assert vectors[0] != vectors[1]
    chat = client.chat.completions.create(
        model="tiny:two", messages=[{"role": "user", "content": "hello"}], max_tokens=4, stream=True
    )
    assert {chunk.model for chunk in chat} == {"tiny:two"}
    counted = server.ask("POST", "/tokenize", {"model": "tiny:two", "prompt": "hello"}, **KEY)
    assert counted.json["count"] > 0

    metrics = server.ask("GET", "/metrics", **KEY).body.decode()
    assert 'servery_lora_adapters{model_name="tiny"} 2.0' in metrics
    assert 'servery_lora_requests_total{adapter="two",model_name="tiny"} 5.0' in metrics

    assert unload(server, "two").status == 200
    with pytest.raises(openai.NotFoundError, match=r"'tiny:two' does not exist\. Served here: 'tiny', 'tiny:one'"):
        text(client, "tiny:two")
    # The name may come back for another adapter: nothing of the first is remembered.
    assert load(server, "two", "three").status == 200
    assert text(client, "tiny:two") not in alone.values()
    assert unload(server, "two").status == 200


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("one", "two", "an adapter named 'one' is loaded already"),
        ("new", "foreign", "lora_A.weight has shape [4, 32]; by adapter_config.json and the base it must be [4, 64]"),
        ("new", "wide", "the rank is 16, and the engine takes adapters up to rank 8; start it with --max-lora-rank 16"),
        ("new", "truncated", "adapter_model.safetensors is damaged"),
        ("new", "nowhere", "must name an adapter's folder below the server's --lora-dir"),
        ("new", "../base", "must name an adapter's folder below the server's --lora-dir"),
        ("a:b", "two", "the adapter's name 'a:b' cannot be used"),
    ],
)
def test_an_adapter_that_cannot_be_used_is_refused(server: ServerProcess, name: str, path: str, message: str) -> None:
    refused = load(server, name, path)
    assert refused.status == 400
    assert message in refused.json["error"]["message"]


def test_a_full_server_says_who_is_in_the_way(server: ServerProcess) -> None:
    assert [load(server, name, name).status for name in ("two", "three")] == [200, 200]
    full = load(server, "four", "vanishing")
    assert full.status == 400
    assert "3 are held, 'one', 'two', 'three', and --max-loras is 3" in full.json["error"]["message"]
    assert [unload(server, name).status for name in ("two", "three", "three")] == [200, 200, 404]


def test_adapters_are_there_again_after_the_engine_died(
    client: openai.OpenAI, server: ServerProcess, root: Path
) -> None:
    before = text(client, "tiny:one")
    assert load(server, "vanishing", "vanishing").status == 200
    shutil.rmtree(root / "adapters" / "vanishing")
    os.kill(server.engine_pid, signal.SIGKILL)
    eventually(lambda: server.ask("GET", "/ready").status == 503, "the death is noticed")
    eventually(lambda: server.ask("GET", "/ready").status == 200, "the engine is back")
    assert text(client, "tiny:one") == before
    with pytest.raises(openai.NotFoundError):
        text(client, "tiny:vanishing")


def test_a_stream_under_way_is_finished_after_the_unload(client: openai.OpenAI, server: ServerProcess) -> None:
    assert load(server, "two", "two").status == 200
    with client.completions.create(
        model="tiny:two", prompt="hello", max_tokens=300, temperature=0, stream=True, extra_body={"ignore_eos": True}
    ) as stream:
        next(stream)
        unload(server, "two")
        reasons = [chunk.choices[0].finish_reason for chunk in stream if chunk.choices]
    assert reasons[-1] == "length"


def test_a_server_given_an_adapter_that_does_not_fit_does_not_start(root: Path) -> None:
    server = ServerProcess(f"{root / 'base'}", "--port", "0", "--lora", f"x={root / 'adapters' / 'foreign'}")
    try:
        with pytest.raises(AssertionError, match=r"the server ended with 1:[^$]*Is it the adapter of another model\?"):
            server.wait_ready()
    finally:
        server.end()
