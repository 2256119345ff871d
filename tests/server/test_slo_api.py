import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from servery.config.types import Slo
from servery.server.app import App
from servery.server.siblings import Siblings, merged
from servery.server.slo_api import counted
from servery.telemetry.metrics import Metrics
from servery.telemetry.slo import WINDOWS_S, Count
from servery.telemetry.slo_watch import SloWatch
from tests.server.asgi import ask
from tests.server.fakes import FakeUpstream, make_service

SLO = Slo(ttft_s=0.5, tpot_s=0.05, attainment=0.99)
COUNTS = {"m": dict.fromkeys(WINDOWS_S, Count(95, 5))}


def watch() -> SloWatch:
    return SloWatch(lambda: {"m": SLO}, lambda: COUNTS, "memory", wall=lambda: 1000.0)


def test_what_became_of_each_slo_is_told_to_administrators() -> None:
    async def story() -> None:
        service = replace(make_service(FakeUpstream(), admin_keys=("boss",)), slo=watch())
        assert (await ask(App(service), "GET", "/admin/slo")).status == 401
        told = (await ask(App(service), "GET", "/admin/slo", authorization="Bearer boss")).json
        assert (told["object"], told["source"], told["at_s"]) == ("slo", "memory", 1000.0)
        (model,) = told["models"]
        assert model["slo"] == {"ttft_s": 0.5, "tpot_s": 0.05, "attainment": 0.99}
        assert {(each["good"], each["missed"], each["attainment"]) for each in model["windows"]} == {(95, 5, 0.95)}
        assert [each["is_firing"] for each in model["alerts"]] == [False, False, False]
        assert list(model) == ["model", "slo", "windows", "error_budget", "alerts"]

    asyncio.run(story())


def test_a_server_without_slos_says_so() -> None:
    async def story() -> None:
        told = (await ask(App(make_service(FakeUpstream())), "GET", "/admin/slo")).json
        assert told["models"] == []

    asyncio.run(story())


def test_what_workers_counted_is_read_from_their_pages() -> None:
    async def story() -> None:
        metrics, slo = Metrics(), watch()
        metrics.watch_slo(slo)
        await slo.refresh()
        page = merged([("0", metrics.render()), ("1", metrics.render())])
        assert counted(page) == {"m": dict.fromkeys(WINDOWS_S, Count(190, 10))}
        assert counted(b"") == {}

    asyncio.run(story())


def test_without_a_ledger_any_worker_tells_what_all_of_them_counted(tmp_path: Path) -> None:
    async def story() -> None:
        metrics, slo = Metrics(), watch()
        metrics.watch_slo(slo)
        await slo.refresh()

        async def page() -> bytes:
            return metrics.render()

        other = await Siblings(tmp_path, 1, 3, page).listen()  # the third is being started again
        async with other:
            service = replace(make_service(FakeUpstream()), slo=watch(), siblings=Siblings(tmp_path, 0, 3, page))
            (model,) = (await ask(App(service), "GET", "/admin/slo")).json["models"]
            assert {(each["good"], each["missed"]) for each in model["windows"]} == {(190, 10)}
            assert model["error_budget"]["remaining"] == pytest.approx(-4.0)

    asyncio.run(story())
