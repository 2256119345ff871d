import asyncio
from dataclasses import replace

import pytest

from servery.config.secret import Secret
from servery.config.types import Config, DeploymentConfig, ModelConfig, Overload, Place, Retry, Slo
from servery.gateway.dispatch.slo_placement import CheapestWithinSlo
from servery.gateway.fleet import Fleet
from servery.upstream.upstream import Upstream
from servery.wire.errors import ApiError
from tests.gateway.scripted import Scripted, Stage, deployment, piece
from tests.gateway.virtual_time import run

HERE = deployment("here", api_key=Secret("k"))
MODEL = ModelConfig(name="m", tiers=(("here",),), place=Place.LEAST_LOAD)
CONFIG = Config(models={"m": MODEL}, deployments={"here": HERE})


def fleet(config: Config, before: Fleet | None = None) -> Fleet:
    def upstream(of: DeploymentConfig) -> Upstream:
        return Scripted((piece("a"),))

    return Fleet.of(config, upstream, lambda: 0.0, lambda: 0.0, before)


def test_a_place_that_stays_keeps_what_is_known_of_it() -> None:
    before = fleet(CONFIG)
    before.deployments["here"].breaker.eject(0.0)
    cheaper = replace(HERE, weight=3.0, max_concurrency=7)
    after = fleet(replace(CONFIG, deployments={"here": cheaper}), before)
    assert before.deployments["here"].slots.limit is None
    after.enforce()
    old, new = before.deployments["here"], after.deployments["here"]
    assert new.upstream is old.upstream
    assert (new.breaker, new.slots, new.slots.limit) == (old.breaker, old.slots, 7)
    assert (old.config.weight, new.config.weight) == (1.0, 3.0)  # exchanges under way keep their snapshot
    assert after.dropped(before) == []
    assert (after.models["m"].placement, after.models["m"].budget) == (
        before.models["m"].placement,
        before.models["m"].budget,
    )


@pytest.mark.parametrize(
    "other", [replace(HERE, url="http://x"), replace(HERE, model="n"), replace(HERE, api_key=Secret("other"))]
)
def test_another_place_is_another_deployment_and_the_old_one_is_dropped(other: DeploymentConfig) -> None:
    before = fleet(CONFIG)
    after = fleet(replace(CONFIG, deployments={"here": other}), before)
    assert after.deployments["here"].upstream is not before.deployments["here"].upstream
    assert [each.name for each in after.dropped(before)] == ["here"]


def test_a_fleet_that_cannot_be_made_changes_nothing_of_the_one_before() -> None:
    def broken(of: DeploymentConfig) -> Upstream:
        raise ValueError(of.name)

    before = fleet(CONFIG)
    wider, more = replace(HERE, max_concurrency=7), deployment("there")
    with pytest.raises(ValueError, match="there"):
        Fleet.of(replace(CONFIG, deployments={"here": wider, "there": more}), broken, lambda: 0.0, lambda: 0.0, before)
    assert before.deployments["here"].slots.limit is None


def test_who_waits_for_the_slo_is_woken_by_deployments_only_when_the_fleet_is_in_force() -> None:
    before = fleet(CONFIG)
    queued = replace(MODEL, place=Place.CHEAPEST_WITHIN_SLO, slo=Slo(ttft_s=0.5, tpot_s=0.1), overload=Overload.QUEUE)
    after = fleet(replace(CONFIG, models={"m": queued}), before)
    assert list(before.deployments["here"].followers.turns) == []
    after.enforce()
    assert list(after.deployments["here"].followers.turns) == [after.models["m"].turns]


def test_what_is_done_with_too_much_is_that_of_the_configuration_of_now() -> None:
    best = replace(MODEL, place=Place.CHEAPEST_WITHIN_SLO, slo=Slo(ttft_s=0.5, tpot_s=0.1))
    before = fleet(replace(CONFIG, models={"m": best}))
    after = fleet(replace(CONFIG, models={"m": replace(best, overload=Overload.SHED)}), before)
    old, new = before.models["m"].placement, after.models["m"].placement
    assert isinstance(old, CheapestWithinSlo)
    assert isinstance(new, CheapestWithinSlo)
    assert (old.config.overload, new.config.overload) == (Overload.BEST_EFFORT, Overload.SHED)
    assert new.tallies is old.tallies


def test_another_way_of_placing_begins_anew() -> None:
    before = fleet(CONFIG)
    changed = replace(MODEL, place=Place.FIRST, retry=Retry(budget=0.9))
    after = fleet(replace(CONFIG, models={"m": changed}), before)
    assert after.models["m"].placement is not before.models["m"].placement
    assert after.models["m"].budget.ratio == 0.9


def test_a_model_that_is_not_there_is_a_404_that_names_those_that_are() -> None:
    with pytest.raises(ApiError, match=r"The model 'x' does not exist\. Served here: 'm'"):
        fleet(CONFIG).served("x")


def test_exchanges_under_way_keep_the_fleet_that_they_began_with() -> None:
    async def story() -> None:

        slow, new = Scripted((10.0, piece("old"))), Scripted((piece("new"),))
        stage = Stage({"a": slow})
        task = asyncio.create_task(stage.ask())
        await asyncio.sleep(1.0)
        stage.upstreams = {"b": new}
        stage.gateway.swap(stage.fleet(stage.gateway.fleet))
        assert (await stage.ask()).client.data == b"data: new\n\n"
        assert (await task).client.data == b"data: old\n\n"

    run(story)
