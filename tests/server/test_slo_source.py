import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from servery.config.types import LedgerConfig, Slo
from servery.gateway.gateway import Gateway
from servery.server.slo_source import slo_watch
from servery.server.workers import Post
from servery.telemetry.ledger.writer import Ledger
from servery.telemetry.metrics import Metrics
from tests.gateway.scripted import Reader, Scripted, Stage, piece
from tests.telemetry.ledger.rows import ROW
from tests.telemetry.test_metrics import rendered

SLO = Slo(ttft_s=1.0, tpot_s=0.5, attainment=0.9)


def stage(**model: Any) -> Stage:
    return Stage({"a": Scripted((piece("a"),))}, model=model)


def windows(metrics: Metrics) -> dict[str, float]:
    return {name: value for name, value in rendered(metrics).items() if "slo_window_good" in name and '"5m"' in name}


def test_without_a_ledger_what_this_process_answered_is_told() -> None:
    async def story() -> None:
        scene = stage(slo=SLO)
        watch = slo_watch(None, scene.gateway, scene.metrics, None)
        await scene.gateway.handle(scene.exchange(Reader()))
        await watch.refresh()
        (model,) = watch.page().models
        assert (watch.source, model.model, model.windows[0].good) == ("memory", "m", 1)
        assert windows(scene.metrics) == {'servery_slo_window_good{model_name="m",window="5m"}': 1}

    asyncio.run(story())


@pytest.mark.parametrize(("number", "is_told"), [(None, True), (0, True), (1, False)])
def test_of_several_workers_the_first_tells_what_the_ledger_has(
    tmp_path: Path, number: int | None, is_told: bool
) -> None:
    place = LedgerConfig(path=tmp_path / "rows.sqlite")
    ledger = Ledger(place)
    ledger.start()
    ledger.add(ROW._replace(at_s=time.time() - 1, e2e_s=1.0, is_slo_met=True, served_model="m"))
    ledger.close()

    async def story() -> None:
        scene = stage(slo=SLO)
        post = None if number is None else Post(number, 2, tmp_path, 0)
        watch = slo_watch(place, scene.gateway, scene.metrics, post)
        await watch.refresh()
        assert (watch.source, watch.page().models[0].windows[0].good) == ("ledger", 1)
        assert bool(windows(scene.metrics)) is is_told

    asyncio.run(story())


def test_models_of_a_later_configuration_are_watched_from_then_on() -> None:
    async def story() -> None:
        scene = stage()
        watch = slo_watch(None, scene.gateway, scene.metrics, None)
        assert watch.page().models == []
        later = stage(slo=SLO)
        gateway: Gateway = scene.gateway
        gateway.swap(later.fleet())
        assert [each.model for each in watch.page().models] == ["m"]
        assert (
            'servery_slo_good_total{deployment="a",model_name="m",tier="self-hosted"} 0.0'
            in scene.metrics.render().decode()
        )

    asyncio.run(story())
