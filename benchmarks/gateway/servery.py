"""Servery as the benchmark runs it: keys, limits, ledger, metrics, deadlines, everything on."""

import sys
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
  api_keys: ["{KEY}"]
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
"""
    )
    return path
