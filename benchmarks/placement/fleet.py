"""What is placed upon: an engine of the gateway's own, paid for by the hour, and an API that bills by the token.

Both are real engines in processes of their own, each on a core. The own one has a model whose steps take far longer than
what gateway and client do for a token, as a real one's do; the API's is a small one, which has room for whatever comes, as
an API's fleet does.
"""

import contextlib
import os
import shutil
import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.random_model import make_model
from benchmarks.served import Server
from servery.amuse import path as amuse_path

MODEL = "m"
# Qwen3's shape with 69 million parameters and the amuse models' vocabulary: 138 MB as bfloat16.
_OWN: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 1536,
    "hidden_size": 768,
    "intermediate_size": 2304,
    "num_hidden_layers": 10,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "bos_token_id": None,
    "eos_token_id": 5,
    "pad_token_id": 0,
}
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
# By the names of the table: where the model runs, how it is placed, and what its own engine is told besides.
POLICIES = {
    "round-robin": ("[own, api]", "weighted", ""),
    "least-load": ("[own, api]", "least-load", ""),
    "API-only": ("[api]", "first", ""),
    "prefix-affinity": ("[own, api]", "prefix-affinity", ""),
    "own first, then API": ("[[own], [api]]", "first", "max_concurrency: {running}, max_queue: 0,"),
    "cheapest-within-slo": ("[[own], [api]]", "cheapest-within-slo", ""),
}
OWN_ONLY = ("[own]", "first", "")
_FILE = """
server: {{ port: 0, ledger: rows.sqlite }}
deployments:
  own:
    {{ kind: embedded, model: "{model}", {cap} engine: {{ threads: 1, kv_memory: 64MiB, max_running: {running} }},
      price: {{ per_hour: {per_hour:.6f} }} }}
  api:
    {{ kind: vllm, tier: api, url: "http://127.0.0.1:{api}/v1", model: amuse-draft,
      price: {{ input: {input}, cached_input: {cached}, output: {output} }} }}
models:
  m:
    {{ deployments: {deployments}, place: {place}, timeouts: {{ first_token: 20s, stall: 20s, total: 60s }},
      slo: {{ ttft: {ttft_s:.6f}s, tpot: {tpot_s:.6f}s, attainment: {attainment} }} }}
  all: {{ deployments: [own, api] }}
"""
# Dollars per million tokens, as a small model of a large provider asks for.
INPUT, CACHED, OUTPUT = 0.25, 0.025, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a run is about: the SLO, what an hour of the own engine costs (dollars), its most sequences at a time."""

    ttft_s: float
    tpot_s: float
    attainment: float
    per_hour: float
    running: int


@contextlib.asynccontextmanager
async def api(folder: Path) -> AsyncGenerator[Server, None]:
    """The API's server."""
    server = Server(
        folder / "api.log", "amuse-draft", "--port", str(_free_port()), "--threads", "1", "--kv-memory", "64MiB",
        "--max-running", "64",
    )  # fmt: skip
    try:
        await server.start()
        for pid in (server.pid, *(engine.pid for engine in server.engines().values())):
            _pin(pid, 1)
        yield server
    finally:
        server.stop()


@contextlib.asynccontextmanager
async def gateway(
    folder: Path, api_port: int, policy: tuple[str, str, str], terms: Terms
) -> AsyncGenerator[Server, None]:
    """A gateway that places so, fresh: it has learnt nothing yet."""
    server = Server(folder / "gateway.log", "--config", str(_written(folder, api_port, policy, terms)))
    try:
        await server.start()
        _pin(server.pid, 1)
        for engine in server.engines().values():
            _pin(engine.pid, 0)
        yield server
    finally:
        server.stop()


def _written(folder: Path, api_port: int, policy: tuple[str, str, str], terms: Terms) -> Path:
    """The gateway's configuration in a folder of its own."""
    deployments, place, cap = policy
    folder.mkdir(parents=True)
    file = folder / "servery.yaml"
    file.write_text(
        _FILE.format(
            model=_own_model(folder.parent / "own-model"), cap=cap.format(running=terms.running), running=terms.running, per_hour=terms.per_hour, api=api_port,
            input=INPUT, cached=CACHED, output=OUTPUT, deployments=deployments, place=place, ttft_s=terms.ttft_s,
            tpot_s=terms.tpot_s, attainment=terms.attainment,
        )
    )  # fmt: skip
    return file


def _own_model(folder: Path) -> Path:
    """The own engine's model, made once in this folder."""
    make_model(folder, _OWN)
    for file in _TOKENIZER:
        shutil.copy(amuse_path() / file, folder / file)
    return folder


def pin_client() -> None:
    """Keep this process off the own engine's core."""
    _pin(os.getpid(), 1)


def _pin(pid: int, core: int) -> None:
    """Keep a process on a core, if there are several."""
    cores = sorted(os.sched_getaffinity(0) | {0, 1} if (os.cpu_count() or 1) > 1 else os.sched_getaffinity(0))
    if len(cores) > 1:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), {cores[core]})


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
