"""One run of one placement, and before all of them what the own engine can do."""

import asyncio
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.placement.figures import Tally, figures
from benchmarks.placement.fleet import OWN_ONLY, POLICIES, Terms, gateway
from benchmarks.placement.replay import Clients, calm, capacity, replay
from benchmarks.placement.trace import trace
from benchmarks.served import Server
from servery.bench.address import Address
from servery.bench.client import Client
from servery.telemetry.ledger.reading import rows_in

_CALIBRATION_SEED = 1_000
_CALM_REQUESTS = 20
_CALIBRATION_REQUESTS = 225
# The SLO as multiples of what a request takes that is alone.
_TTFT_TIMES, _TPOT_TIMES = 8.0, 4.0
_ATTAINMENT = 0.98
_NANO = 1e9
_WRITTEN_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How a run is made."""

    seconds: float
    warm_up_s: float
    load: float
    burstiness: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Of the own engine: requests per second when it is full, and the times of a request that is alone.

    `usd_at_api` is what the API asks for a request on average, what its cache saves taken off.
    """

    capacity: float
    ttft_s: float
    tpot_s: float
    usd_at_api: float

    def terms(self, running: int, hour_share: float) -> Terms:
        """An hour of the engine costs `hour_share` of what the API asks for what the engine could do in it."""
        return Terms(
            ttft_s=_TTFT_TIMES * self.ttft_s,
            tpot_s=_TPOT_TIMES * self.tpot_s,
            attainment=_ATTAINMENT,
            per_hour=hour_share * self.capacity * 3600.0 * self.usd_at_api,
            running=running,
        )


async def calibrate(folder: Path, api_port: int, running: int) -> Calibration:
    """Measure the own engine, and what the API asks for a request, each behind a gateway that has nothing else."""
    terms = Terms(ttft_s=10.0, tpot_s=1.0, attainment=_ATTAINMENT, per_hour=0.0, running=running)
    arrivals = trace(1.0, 1.0, _CALIBRATION_REQUESTS, _CALIBRATION_SEED)
    async with gateway(folder / "own", api_port, OWN_ONLY, terms) as server:
        clients = Clients(server.port, "calibration")
        await calm(clients, arrivals[:5])
        alone = await calm(clients, arrivals[5 : 5 + _CALM_REQUESTS])
        per_s = await capacity(clients, arrivals[5 + _CALM_REQUESTS :], 2 * running)
        clients.close()
    async with gateway(folder / "api", api_port, POLICIES["API-only"], terms) as server:
        clients = Clients(server.port, "calibration")
        await capacity(clients, arrivals, 2)
        clients.close()
        await asyncio.sleep(_WRITTEN_S)
    billed = [row.cost_nanousd for row in rows_in(folder / "api" / "rows.sqlite")]
    return Calibration(
        capacity=per_s,
        ttft_s=statistics.median(each.ttft_s for each in alone if each.ttft_s is not None),
        tpot_s=statistics.median(each.tpot_s for each in alone if each.tpot_s is not None),
        usd_at_api=statistics.mean(billed) / _NANO,
    )


async def measure(
    folder: Path, api_port: int, policy: str, setting: Setting, terms: Terms, rate: float, number: int
) -> dict[str, Any]:
    """One run of round `number`: its figures without those of the warm-up."""
    arrivals = trace(rate, setting.burstiness, setting.warm_up_s + setting.seconds, number)
    async with gateway(folder, api_port, POLICIES[policy], terms) as server:
        clients = Clients(server.port, f"{number}-{policy}"[:12])
        warm = asyncio.create_task(_tally_after(server, setting.warm_up_s))
        samples, began_at = await replay(clients, arrivals)
        predicted = (await _tally(server)).since(await warm)
        clients.close()
        await asyncio.sleep(_WRITTEN_S)  # rows are on disk within about a second
    counted = [each for each in samples if each.at_s >= setting.warm_up_s]
    rows = [row for row in rows_in(folder / "rows.sqlite") if row.at_s >= began_at + setting.warm_up_s]
    return figures(counted, rows, setting.seconds, terms, predicted, has_own="own" in POLICIES[policy][0])


async def _tally_after(server: Server, delay_s: float) -> Tally:
    await asyncio.sleep(delay_s)
    return await _tally(server)


async def _tally(server: Server) -> Tally:
    """Of the own engine's first tokens; all nothing for a placement that predicts none."""
    client = Client(Address.parse(f"http://127.0.0.1:{server.port}"))
    try:
        text = await client.metrics()
    finally:
        client.close()
    names = ("predictions_total", "predicted_actual_seconds_total", "prediction_error_seconds_total")
    return Tally(
        *[sum(map(float, re.findall(rf"^servery_ttft_{name}{{.*}} (\S+)$", text, re.MULTILINE))) for name in names]
    )
