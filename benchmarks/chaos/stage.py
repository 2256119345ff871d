"""Everything that runs: a gateway with two engines of its own, a Servery elsewhere behind a cable, a faulty API."""

import contextlib
import random
import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.cable import Cable
from benchmarks.chaos.client import Client
from benchmarks.chaos.faulty import Faulty
from benchmarks.served import Server

FAULTY_SHARE = 0.3
OWN = ("one", "two")
# What clients ask for, and how often. All but the last have the same engine's answers, wherever they run.
MODELS = {"chat": 5.0, "alike": 2.0, "cheap": 2.0, "far": 2.0, "api": 3.0}
_ENGINE = "{ kind: embedded, model: amuse-draft, engine: { threads: 1, kv_memory: 16MiB }, max_concurrency: 6, max_queue: 12 }"
_FILE = """
server: {{ port: 0, ledger: rows.sqlite, drain_timeout: 10s }}
deployments:
  one: {engine}
  two: {engine}
  remote:
    {{ kind: vllm, url: "http://127.0.0.1:{remote}/v1", model: amuse-draft, price: {{ per_hour: 0.5 }}, continues: replay,
      max_concurrency: 8, max_queue: 8, health: {{ path: /health, interval: 2s, timeout: 2s }} }}
  faulty-a: {{ kind: vllm, tier: api, url: "http://127.0.0.1:{faulty}/v1", model: a, price: {price} }}
  faulty-b: {{ kind: vllm, tier: api, url: "http://127.0.0.1:{faulty}/v1", model: b, price: {price} }}
models:
  chat: {{ deployments: [[one, two], [remote]] }}
  alike: {{ deployments: [one, two, remote], place: prefix-affinity }}
  cheap:
    {{ deployments: [[one, two], [remote]], place: cheapest-within-slo, slo: {{ ttft: 1s, tpot: 100ms }}, overload: queue }}
  far: {{ deployments: [remote], place: first, fallbacks: {{ error: [chat] }} }}
  api: {{ deployments: [faulty-a, faulty-b], place: weighted, fallbacks: {{ error: [chat] }} }}
defaults:
  timeouts: {{ connect: 2s, first_token: 15s, stall: 5s, total: {total_s:g}s }}
  retry: {{ attempts: 4 }}
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """What runs, and the files that it leaves in `folder`."""

    folder: Path
    gateway: Server
    remote: Server
    cable: Cable
    faulty: Faulty
    client: Client

    @property
    def ledger(self) -> Path:
        """The gateway's."""
        return self.folder / "rows.sqlite"

    @property
    def configuration(self) -> Path:
        """The gateway's."""
        return self.folder / "servery.yaml"


@contextlib.asynccontextmanager
async def stage(folder: Path, chance: random.Random, total_s: float) -> AsyncGenerator[Stage, None]:
    """All of it inside, the gateway ready; no answer takes longer than `total_s`. `folder` is empty before."""
    port = _free_port()
    remote = Server(
        folder / "remote.log", "amuse-draft", "--port", str(port), "--threads", "1", "--kv-memory", "16MiB",
        "--drain-timeout", "5",
    )  # fmt: skip
    file = folder / "servery.yaml"
    gateway = Server(folder / "gateway.log", "--config", str(file), "--files", str(folder / "files"))
    async with Faulty(chance, FAULTY_SHARE).listening() as faulty, Cable(port).laid() as cable:
        price = "{ input: 1.0, output: 4.0 }"
        file.write_text(
            _FILE.format(engine=_ENGINE, remote=cable.port, faulty=faulty.port, price=price, total_s=total_s)
        )
        try:
            await remote.start()
            await gateway.start()
            yield Stage(folder, gateway, remote, cable, faulty, Client(gateway.port, total_s + 60.0))
        finally:
            gateway.stop()
            remote.stop()


def _free_port() -> int:
    """A port that nobody has: a server that is killed comes back to it."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
