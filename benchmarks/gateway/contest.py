"""What one gateway does: saturation, latency that it adds, streams, memory, start. And the same without any gateway."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gateway.gateway import Gateway, Running, running
from benchmarks.gateway.peers import Peer
from benchmarks.gateway.rig import Load, Rig, request

UPSTREAM, PORT = 8911, 8920
_LAGGING_MS = 1.0  # requests that leave later than that, one in a hundred, make a latency the generator's own
# A load for each row, and a lighter one for what is overloaded by it.
LOADS = {
    "saturated": Load(connections=32, seconds=3.0),
    "at_100": Load(rate=100, connections=128, seconds=4.0),
    "at_1000": Load(rate=1000, connections=512, seconds=3.0),
    "first_chunk": Load(is_stream=True, rate=20, connections=64, seconds=3.0),
    "streams_64": Load(is_stream=True, connections=64, seconds=3.0),
    "streams_256": Load(is_stream=True, connections=256, seconds=3.0),
}
_LIGHT = {
    "saturated": Load(connections=32, seconds=4.0),
    "at_100": Load(rate=20, connections=64, seconds=3.0),
    "first_chunk": Load(is_stream=True, rate=5, connections=16, seconds=3.0),
    "streams_64": Load(is_stream=True, connections=16, seconds=3.0),
}


@dataclass(frozen=True, slots=True)
class Contest:
    """Measures; the gateway has `cores[0]` to itself, the model server and the load share `cores[1]`."""

    rig: Rig
    cache: Path
    cores: Sequence[int]
    rows: Sequence[str]

    def direct(self) -> dict[str, dict[str, Any]]:
        """Every load without a gateway."""
        with self.rig.upstream(UPSTREAM):
            return {
                name: self._sent(load, UPSTREAM, "upstream-model") for name, load in LOADS.items() if name in self.rows
            }

    def measure(self, peer: Peer, number: int) -> dict[str, Any] | str:
        """All that is known of one gateway, or why nothing is."""
        folder = self.cache / "runs" / peer.name
        folder.mkdir(parents=True, exist_ok=True)
        port = PORT + number
        gateway = peer.gateway(self.cache, folder, port, UPSTREAM)
        if isinstance(gateway, str):
            return gateway
        try:
            with self.rig.upstream(UPSTREAM), running(gateway, self.cores[0], folder) as alive:
                loads = _LIGHT if peer.is_slow else LOADS
                return self._rows(gateway, alive, {name: loads[name] for name in self.rows if name in loads})
        except RuntimeError as error:
            return str(error)

    def _rows(self, gateway: Gateway, alive: Running, loads: dict[str, Load]) -> dict[str, Any]:
        idle_mb = alive.rss_mb
        rows: dict[str, Any] = {}
        for name, load in loads.items():
            sys.stderr.write(f"{gateway.name}: {name}\n")
            before_s = alive.cpu_s
            found = self.rig.run(load, gateway.port, gateway.request(is_stream=load.is_stream))
            spent_us = 1e6 * (alive.cpu_s - before_s) * load.seconds / (load.seconds + load.warm_s)
            rows[name] = {
                **found,
                "offered": load.rate,
                "cpu_us_per_answer": spent_us / found["answered"] if found["answered"] else None,
                "cpu_us_per_event": spent_us / found["events"] if found["events"] else None,
                "is_lagging": found["lag_ms"].get("p99", 0.0) > _LAGGING_MS,
            }
        return {"rows": rows, "ready_s": alive.ready_s, "idle_mb": idle_mb, "loaded_mb": alive.rss_mb}

    def _sent(self, load: Load, port: int, model: str) -> dict[str, Any]:
        found = self.rig.run(load, port, request(is_stream=load.is_stream, port=port, model=model))
        return {**found, "is_lagging": found["lag_ms"].get("p99", 0.0) > _LAGGING_MS}


def added_ms(found: dict[str, Any], direct: dict[str, Any], rank: str, of: str = "total_ms") -> float | None:
    """How much later an answer came than without a gateway; None where one of the two is not known."""
    if rank not in found.get(of, {}) or rank not in direct.get(of, {}):
        return None
    return float(found[of][rank]) - float(direct[of][rank])
