"""Servery as the benchmark runs it: keys, limits, ledger, metrics, deadlines, everything on.

The limits are counted for every request and are too high to refuse any.
"""

import sys
from hashlib import sha256
from pathlib import Path

from benchmarks.gateway.rig import KEY, MODEL

SERVERY = [sys.executable, "-m", "servery", "serve", "--log-level", "warning", "--config"]


def write_configuration(folder: Path, *, port: int, upstream: int) -> Path:
    """A configuration with one deployment, the model server at port `upstream`."""
    path = folder / "servery.yaml"
    path.write_text(
        f"""server:
  host: 127.0.0.1
  port: {port}
  ledger: {folder / "ledger.sqlite"}
deployments:
  there:
    kind: vllm
    url: http://127.0.0.1:{upstream}/v1
    model: upstream-model
    max_concurrency: 2000
    price: {{ input: 1.00, output: 2.00 }}
models:
  {MODEL}:
    deployments: [there]
    slo: {{ ttft: 800ms, tpot: 50ms, attainment: 99% }}
    limits: {{ requests_per_minute: 100000000, dollars_per_day: 1000000 }}
keys:
  load:
    sha256: {sha256(KEY.encode()).hexdigest()}
    owner: everybody
    limits: {{ requests_per_minute: 100000000, output_tokens_per_minute: 1000000000, concurrency: 100000 }}
owners:
  everybody:
    limits: {{ input_tokens_per_minute: 1000000000, dollars_per_month: 1000000 }}
"""
    )
    return path
