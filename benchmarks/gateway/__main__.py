"""Servery's gateway alone on one core beside other gateways: throughput, latency that it adds, streams, memory, start.

Core 0 has the gateway alone, one worker; core 1 a model server and a load generator, both in C. Requests of 660 bytes are
answered at once with 580, or by a stream of 32 events of 250 bytes, 5 ms apart. Latencies are from the time at which a
request was to leave (open loop), less what it takes without a gateway; CPU time is that of the gateway's processes. A row
whose load generator was late itself is marked with *. Servery has everything on: keys, limits, ledger, metrics,
deadlines; what others have on is told in docs/gateway-speed.md. A gateway that is not installed is left out, with the
command that installs it.

python -m benchmarks.gateway --cache DIRECTORY [--peers servery,envoy] [--rows saturated,at_100] [--cores 0,1]
python -m benchmarks.gateway soak --cache DIRECTORY [--minutes 60]
python -m benchmarks.gateway instructions --cache DIRECTORY [--requests 100]
python -m benchmarks.gateway calls --cache DIRECTORY [--requests 100]
"""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.gateway import calls, instructions
from benchmarks.gateway.contest import LOADS, Contest, added_ms
from benchmarks.gateway.peers import PEERS
from benchmarks.gateway.rig import Rig
from benchmarks.gateway.soak import soak
from benchmarks.result import publish

_COLUMNS = (
    *("gateway", "requests/s", "µs/request", "added p50 / p99 at 100/s", "at 1000/s", "added first chunk"),
    *("µs/event", "events/s at 256 streams", "TTFT p50 there", "MB idle, loaded", "first answer s"),
)


def table(direct: dict[str, Any], found: dict[str, Any]) -> Table:
    """A line for each gateway; times in ms."""
    shown = Table(*_COLUMNS)
    for name, each in found.items():
        rows = each["rows"]
        many = rows.get("streams_256", {})
        shown.add_row(
            name,
            _number(rows.get("saturated", {}).get("per_s")),
            _number(rows.get("saturated", {}).get("cpu_us_per_answer")),
            _added(rows, direct, "at_100"),
            _added(rows, direct, "at_1000"),
            _added(rows, direct, "first_chunk", "first_ms"),
            _number(rows.get("streams_64", {}).get("cpu_us_per_event")),
            f"{many['events_per_s']:,.0f}" if many else "-",
            f"{many['first_ms'].get('p50', 0):.1f}" if many else "-",
            f"{each['idle_mb']:.0f}, {each['loaded_mb']:.0f}",
            f"{each['ready_s']:.2f}",
        )
    return shown


def _added(rows: dict[str, Any], direct: dict[str, Any], row: str, of: str = "total_ms") -> str:
    if row not in rows:
        return "-"
    p50, p99 = (added_ms(rows[row], direct[row], rank, of) for rank in ("p50", "p99"))
    mark = "*" if rows[row]["is_lagging"] else ""
    return "-" if p50 is None or p99 is None else f"{p50:.2f} / {p99:.2f}{mark}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _compare(options: argparse.Namespace, rig: Rig) -> None:
    wanted = options.peers.split(",") if options.peers else [peer.name for peer in PEERS]
    rows = options.rows.split(",") if options.rows else list(LOADS)
    if unknown := [row for row in rows if row not in LOADS]:
        raise SystemExit(f"no row is called {', '.join(unknown)}; there are {', '.join(LOADS)}")
    contest = Contest(rig, options.cache, options.cores, rows)
    direct = contest.direct()
    found: dict[str, Any] = {}
    missing: dict[str, Any] = {}
    for number, peer in enumerate(PEERS):
        if peer.name in wanted:
            measured = contest.measure(peer, number)
            (missing if isinstance(measured, str) else found)[peer.name] = measured
    console = Console(width=200)
    console.print(table(direct, found))
    for name, reason in missing.items():
        console.print(f"LEFT OUT: {name}: {reason}")
    publish("gateway", {"settings": {"cores": options.cores}, "runs": found, "direct": direct, "missing": missing})


def _soak(options: argparse.Namespace, rig: Rig) -> None:
    gateway = PEERS[0].gateway(options.cache, options.cache, 8951, 8952)
    if isinstance(gateway, str):
        raise SystemExit(gateway)
    found = soak(
        gateway, rig, options.cache, minutes=options.minutes, cores=options.cores, upstream=8952, rate=options.rate
    )
    Console().print(f"RSS grows by {found['mb_per_hour']:.2f} ± {found['half_width']:.2f} MB per hour (95 %)")
    publish("gateway-soak", found)


def _instructions(options: argparse.Namespace, rig: Rig) -> None:
    if not instructions.is_possible():
        Console(stderr=True).print("LEFT OUT: valgrind is not installed; on Debian: apt-get install valgrind")
        return
    per = instructions.count(options.cache, options.requests)
    Console(width=120).print(instructions.table(per))
    publish(instructions.NAME, {"settings": {"requests": options.requests}, "per": per})


def _calls(options: argparse.Namespace, rig: Rig) -> None:
    found = calls.count(options.cache, options.requests)
    Console(width=120).print(calls.table(found))
    rooms, total = calls.by_room(found), sum(found.values())
    publish(calls.NAME, {"settings": {"requests": options.requests}, "calls": total, "rooms": rooms, "runs": found})


_VERBS = {"compare": _compare, "soak": _soak, "instructions": _instructions, "calls": _calls}


def main() -> None:
    """Measure, print, publish."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("verb", nargs="?", choices=_VERBS, default="compare")
    arguments.add_argument(
        "--cache", type=Path, required=True, help="where the rig is built and the others are installed"
    )
    arguments.add_argument("--peers", help="names, with commas; else all")
    arguments.add_argument("--rows", help="of the loads, with commas; else all")
    arguments.add_argument("--cores", type=lambda text: [int(each) for each in text.split(",")], default=[0, 1])
    arguments.add_argument("--minutes", type=float, default=60.0)
    arguments.add_argument("--rate", type=float, default=20.0, help="requests a second of the soak")
    arguments.add_argument("--requests", type=int, default=100)
    options = arguments.parse_args()
    options.cache = options.cache.resolve()
    _VERBS[options.verb](options, Rig(options.cache / "rig", options.cores[1]))


if __name__ == "__main__":
    main()
