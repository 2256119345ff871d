"""Placements against each other on real engines: the same bursts, who keeps the SLO, and what it costs.

One engine is the gateway's own and paid for by the hour, used or not; the other stands for an API that bills by the token.
What the own engine can do is measured first: requests come at `--load` of its capacity on average, in bursts (gamma, with
`--burstiness` as coefficient of variation) in which it has far too much to do. The SLO is a multiple of the times of a request
that is alone. Every placement gets a gateway of its own, which knows nothing before, the same requests at the same times, and
its first seconds do not count. Rounds are interleaved and each has another trace.

A round takes some five minutes. With --runs FILE what was measured is kept there, and the next call goes on; --minutes says
after how long no further run is begun. The last call publishes.

python -m benchmarks.placement [--rounds 3] [--seconds 40] [--warm-up 15] [--load 0.7] [--burstiness 3] [--runs FILE --minutes 3]
"""

import argparse
import asyncio
import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.placement.figures import together
from benchmarks.placement.fleet import POLICIES, Terms, api, pin_client
from benchmarks.placement.measuring import Setting, calibrate, measure
from benchmarks.result import interleaved, publish
from benchmarks.served import end_servers_on_sigterm

_SHOWN = {
    "good_share": ("good", 100, "%"), "goodput_per_s": ("good/s", 1, ""), "usd_per_million_good_tokens": ("$/M good", 1, ""),
    "bill_usd": ("API bill $", 1, ""), "api_share": ("at the API", 100, "%"), "shed": ("shed", 1, ""),
    "ttft_p50_ms": ("TTFT p50 ms", 1, ""), "ttft_p99_ms": ("p99", 1, ""), "tpot_p99_ms": ("TPOT p99", 1, ""),
    "prediction_error_ms": ("TTFT error ms", 1, ""),
}  # fmt: skip


async def run(given: argparse.Namespace, policies: Sequence[str], folder: Path, kept: dict[str, Any]) -> dict[str, Any]:
    """All rounds that `kept` does not have; it has them afterwards."""
    setting = Setting(seconds=given.seconds, warm_up_s=given.warm_up, load=given.load, burstiness=given.burstiness)
    pin_client()
    async with api(folder) as server:
        if "calibration" not in kept:
            found = await calibrate(folder / "calibration", server.port, given.running)
            terms = found.terms(given.running, given.hour_share)
            kept |= {"calibration": dataclasses.asdict(found), "terms": dataclasses.asdict(terms), "runs": {}}
        terms, rate = Terms(**kept["terms"]), setting.load * kept["calibration"]["capacity"]
        end_s = time.monotonic() + 60.0 * given.minutes
        for number, name in interleaved(policies, given.rounds):
            done = kept["runs"].setdefault(name, [])
            if len(done) == number and time.monotonic() < end_s:
                place = folder / f"{number}-{name}".replace(" ", "-")
                done.append(await measure(place, server.port, name, setting, terms, rate, number))
                _keep(given.runs, kept)
    return kept


def _keep(file: Path | None, kept: dict[str, Any]) -> None:
    if file is not None:
        file.write_bytes(orjson.dumps(kept, option=orjson.OPT_INDENT_2))


def table(summary: dict[str, dict[str, Any]]) -> Table:
    """Medians, and in brackets their intervals where there are several runs."""
    shown = Table("placement", *(head for head, _, _ in _SHOWN.values()))
    for policy, found in summary.items():
        cells = []
        for name, (_, factor, unit) in _SHOWN.items():
            if (value := found.get(name)) is None:
                cells.append("")
                continue
            median, low, high = (factor * value[key] for key in ("median", "low", "high"))
            cells.append(f"{median:.3g}{unit}" + (f" ({low:.3g}-{high:.3g})" if low != high else ""))
        shown.add_row(policy, *cells)
    return shown


def main() -> None:
    """Measure, print, publish once all rounds are there."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seconds", type=float, default=40.0, help="of a run, without its warm-up")
    arguments.add_argument("--warm-up", type=float, default=15.0)
    arguments.add_argument("--load", type=float, default=0.7, help="share of the own engine's capacity")
    arguments.add_argument("--burstiness", type=float, default=3.0)
    arguments.add_argument("--running", type=int, default=8, help="the own engine's most sequences at a time")
    arguments.add_argument(
        "--hour-share", type=float, default=0.35, help="what its hour costs, as a share of the API's price"
    )
    arguments.add_argument("--policies", nargs="+", choices=tuple(POLICIES), default=tuple(POLICIES))
    arguments.add_argument("--runs", type=Path, help="a JSON file: what is there is not measured again")
    arguments.add_argument("--minutes", type=float, default=60.0, help="begin no run after these")
    given = arguments.parse_args()
    end_servers_on_sigterm()
    kept = orjson.loads(given.runs.read_bytes()) if given.runs is not None and given.runs.exists() else {}
    with tempfile.TemporaryDirectory(prefix="servery-placement-") as folder:
        kept = asyncio.run(run(given, given.policies, Path(folder), kept))
    summary = {name: together(runs) for name, runs in kept["runs"].items() if runs}
    Console(stderr=True, width=180).print(table(summary))
    sys.stdout.write(orjson.dumps({"calibration": kept["calibration"], "terms": kept["terms"]}).decode() + "\n")
    left = sum(given.rounds - len(kept["runs"].get(name, [])) for name in given.policies)
    if left:
        sys.stderr.write(f"{left} runs are left: call it again with the same --runs\n")
    else:
        settings = {name: value for name, value in vars(given).items() if name != "runs"}
        publish("placement", {"settings": settings, "summary": summary, **kept})


if __name__ == "__main__":
    main()
