"""Whether `servery bench` measures what another benchmark measures: the same server and load, in turns.

Each round both send the same number of requests of the same lengths to one server, from so many clients that wait for
their answers; the order changes with every round. The server has the embedded model in the shape of a larger one (148M
parameters, the same answers) and computes on one thread, on a core that the tools do not have, so that a token takes
milliseconds and a tool's own microseconds are small beside it. For each figure the medians over the rounds are
compared: they agree when they are apart no more than the rounds of one and the same tool are (the larger of both
tools' ranges), or than `--tolerance`. Rounds that differ by more than a quarter show nothing: the machine was busy,
and the verdict is open. The other's definitions are taken as they are where they are the same: AIPerf's time to first
token counts to the first event with text, its inter-token latency is (last - first) / (tokens - 1), which we call
TPOT, its request latency is E2E.

python -m benchmarks.bench_agreement --cache DIRECTORY [--peer aiperf] [--rounds 5] [--requests 20] [--clients 1]

The peer lives in a virtual environment of its own below DIRECTORY; without one, the command that makes it is told.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from benchmarks.grown_model import grow
from benchmarks.result import interleaved, publish
from benchmarks.served import Server, end_servers_on_sigterm
from servery import amuse

OURS = "servery"
INSTALL = {"aiperf": "{folder}/bin/pip install aiperf==0.13.0"}
_MODEL = "amuse"
_TEMPLATE_TOKENS = 3  # ours counts them as the prompt's
# Ours to the peer's, by the peer's name; both in milliseconds but the last, in tokens a second.
FIGURES = {"ttft_ms": "time_to_first_token", "tpot_ms": "inter_token_latency", "e2e_ms": "request_latency"}
THROUGHPUT = "output_token_throughput"
_TIMEOUT_S = 240
MOST_NOISE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent: requests of so many tokens each way, from so many clients."""

    requests: int
    clients: int
    prompt_tokens: int
    output_tokens: int


def agreement(ours: Sequence[float], theirs: Sequence[float], tolerance: float) -> dict[str, Any]:
    """Medians of both, how far apart they are, how much rounds differ, all as shares, and whether that is agreement (None: open)."""
    here, there = statistics.median(ours), statistics.median(theirs)
    noise = max((max(side) - min(side)) / statistics.median(side) for side in (ours, theirs))
    apart = abs(here / there - 1)
    agrees = None if noise > MOST_NOISE else apart <= max(noise, tolerance)
    return {"servery": here, "peer": there, "apart": apart, "noise": noise, "agrees": agrees}


def read_ours(report: dict[str, Any]) -> dict[str, float]:
    """The figures of a file that `servery bench run --json` wrote."""
    rows = report["samples"]  # a run states a percentile only where it is sure of it; the other tool does always
    found = {name: 1e3 * statistics.median(row[name.replace("_ms", "_s")] for row in rows) for name in FIGURES}
    return {**found, "tokens_per_s": float(report["summary"]["throughput"]["output_tokens"])}


def read_peer(report: dict[str, Any]) -> dict[str, float]:
    """The figures of a file that AIPerf exported."""
    found = {ours: float(report[theirs]["p50"]) for ours, theirs in FIGURES.items()}
    return {**found, "tokens_per_s": float(report[THROUGHPUT]["avg"])}


def _run_ours(url: str, load: Load, folder: Path, seed: int) -> dict[str, float]:
    file = folder / f"ours-{seed}.json"
    lengths = ["--prompt-tokens", str(load.prompt_tokens), "--output-tokens", str(load.output_tokens)]
    count = ["--requests", str(load.requests), "--concurrency", str(load.clients), "--warmup", str(load.clients)]
    command = [sys.executable, "-m", "servery", "bench", "run", "--url", url, "--model", _MODEL, "--no-bandwidth"]
    _call([*command, *lengths, *count, "--json", str(file)])
    return read_ours(orjson.loads(file.read_bytes()))


def _run_aiperf(python: Path, url: str, load: Load, folder: Path, seed: int) -> dict[str, float]:
    out = folder / f"aiperf-{seed}"
    sizes = {
        "--isl": load.prompt_tokens - _TEMPLATE_TOKENS,
        "--osl": load.output_tokens,
        "--concurrency": load.clients,
        "--request-count": load.requests,
        "--warmup-request-count": load.clients,
        "--random-seed": seed,
        "--workers-max": 1,
    }
    options = [word for name, value in sizes.items() for word in (name, str(value))]
    command = [str(python.with_name("aiperf")), "profile", "-m", _MODEL, "--url", url, "--endpoint-type", "chat"]
    server = ["--streaming", "--use-server-token-count", "--extra-inputs", f"min_tokens:{load.output_tokens}"]
    shown = [
        "--extra-inputs",
        "temperature:0",
        "--tokenizer",
        str(amuse.path("small")),
        "--ui",
        "none",
        "--output-artifact-dir",
        str(out),
    ]
    _call([*command, *options, *server, *shown])
    return read_peer(orjson.loads(next(out.rglob("profile_export_aiperf.json")).read_bytes()))


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def compare(python: Path, peer: str, load: Load, rounds: int, tolerance: float) -> dict[str, Any]:
    """All rounds, on one server."""
    end_servers_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="servery-agreement-") as name:
        folder = Path(name)
        model = _speaking(grow(amuse.path(), folder / "grown", widening=4, intermediate=2560, layers=28))
        options = ("--threads", "1", "--kv-memory", "256MiB", "--no-prefix-cache", "--port", "0")
        server = Server(folder / "server.log", f"{_MODEL}={model}", *options)
        cores = sorted(os.sched_getaffinity(0))
        try:
            os.sched_setaffinity(0, cores[:1])  # what is started has the same cores: the server one, tools the others
            asyncio.run(server.start())
            os.sched_setaffinity(0, cores[1:] or cores)
            url, runs = f"http://127.0.0.1:{server.port}", list[dict[str, Any]]()
            for number, who in interleaved([OURS, peer], rounds):
                ours = who == OURS
                figures = (
                    _run_ours(url, load, folder, number) if ours else _run_aiperf(python, url, load, folder, number)
                )
                runs.append({"round": number, "tool": who, **figures})
        finally:
            server.stop()
            os.sched_setaffinity(0, cores)
    return summary(runs, peer, tolerance)


def _speaking(model: Path) -> Path:
    """Let all tokens be text: AIPerf counts to the last event with text, we to the last token, seen or not.

    The end of an answer has no text in any case: so AIPerf asks for `min_tokens`, where we ask to ignore it.
    """
    file = model / "tokenizer.json"
    tokenizer = orjson.loads(file.read_bytes())
    for token in tokenizer["added_tokens"]:
        token["special"] = False
    file.write_bytes(orjson.dumps(tokenizer))
    return model


def summary(runs: Sequence[dict[str, Any]], peer: str, tolerance: float) -> dict[str, Any]:
    """What the rounds show."""
    sides = {who: [run for run in runs if run["tool"] == who] for who in (OURS, peer)}
    names = (*FIGURES, "tokens_per_s")
    figures = {
        name: agreement([run[name] for run in sides[OURS]], [run[name] for run in sides[peer]], tolerance)
        for name in names
    }
    return {
        "peer": peer,
        "figures": figures,
        "agrees": _overall([one["agrees"] for one in figures.values()]),
        "runs": list(runs),
    }


def _overall(verdicts: Sequence[bool | None]) -> bool | None:
    """One that is open leaves all open, unless one disagrees."""
    return False if False in verdicts else None if None in verdicts else True


def main() -> None:
    """Read the options, compare, publish; exit code 1 where the tools were not shown to agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="where the peer's environment is")
    parser.add_argument("--peer", choices=tuple(INSTALL), default="aiperf")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--tolerance", type=float, default=0.03, help="a difference that does not matter")
    options = parser.parse_args()
    folder = options.cache / "venvs" / options.peer
    if not (folder / "bin" / options.peer).exists():
        install = INSTALL[options.peer].format(folder=folder)
        raise SystemExit(f"{options.peer} is not there; make its environment:\npython3 -m venv {folder} && {install}")
    load = Load(requests=options.requests, clients=options.clients, prompt_tokens=200, output_tokens=60)
    found = compare(folder / "bin" / "python", options.peer, load, options.rounds, options.tolerance)
    publish("bench_agreement", found)
    sys.exit(0 if found["agrees"] else 1)


if __name__ == "__main__":
    main()
