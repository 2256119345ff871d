"""Models told to come and go over HTTP: states, refusals, and what is done to whom."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from servery.engine.config import EngineConfig
from servery.engine.errors import CannotSleep, EngineDead, LoadError
from servery.server.app import App
from servery.server.house import House
from servery.server.options import ModelFolder, ServedModel, ServeOptions
from servery.telemetry.metrics import Metrics
from servery.telemetry.residency import ModelState
from servery.upstream.on_demand import OnDemandUpstream
from servery.upstream.residence import Residence, Stay
from servery.upstream.roster import Roster
from servery.upstream.upstream import Chunk
from tests.server.asgi import ask
from tests.server.fakes import make_service
from tests.upstream.test_on_demand import FakeModel

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


class FakeHouse:
    """A server of the models `m` and `n`."""

    def __init__(self, **options: Any) -> None:
        roster = Roster()
        self.models = {name: FakeModel(name) for name in "mn"}
        for each in self.models.values():
            each.script = (Chunk(data=b"{}"),)
        self.residences = {name: Residence(each, Stay(), roster) for name, each in self.models.items()}
        upstreams = [OnDemandUpstream(each, self.residences[name]) for name, each in self.models.items()]
        self.app = App(make_service(*upstreams, residences=self.residences, **options))

    @property
    def states(self) -> dict[str, str]:
        return {name: each.state.value for name, each in self.residences.items()}

    async def post(self, path: str, body: Any = b"") -> tuple[int, Any]:
        call = await ask(self.app, "POST", path, body, **({} if body == b"" else {"content_type": "application/json"}))
        return call.status, call.json

    async def load_all(self) -> None:
        for each in self.residences.values():
            await each.load()

    async def is_sleeping(self, query: str = "") -> bool:
        call = await ask(self.app, "GET", f"/is_sleeping{query}")
        assert call.status == 200
        is_sleeping: bool = call.json["is_sleeping"]
        assert call.json == {"is_sleeping": is_sleeping}
        return is_sleeping


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await story()

    asyncio.run(limited())


def test_a_model_is_loaded_and_unloaded() -> None:
    async def story() -> None:
        house = FakeHouse()
        assert await house.post("/v1/models/load", {"model": "m"}) == (
            200,
            {
                "id": "m", "object": "model", "created": 1, "owned_by": "servery", "max_model_len": 2048, "root": "m",
                "parent": None, "state": "loaded", "load_error": None,
            },
        )  # fmt: skip
        assert house.states == {"m": "loaded", "n": "unloaded"}
        assert (await house.post("/v1/models/load", {"model": "m"}))[0] == 200
        assert (await house.post("/v1/chat/completions", CHAT))[0] == 200
        status, model = await house.post("/v1/models/unload", {"model": "m"})
        assert (status, model["state"], house.models["m"].sleeper.told) == (200, "unloaded", ["start", "stop"])
        status, refused = await house.post("/v1/chat/completions", CHAT)
        assert (status, refused["error"]["code"]) == (503, "model_not_loaded")

    run(story)


def test_a_failed_load_says_why_and_can_be_tried_again() -> None:
    async def story() -> None:
        house = FakeHouse()
        house.models["m"].sleeper.fails = [LoadError("/models/m/config.json is damaged.")]
        status, refused = await house.post("/v1/models/load", {"model": "m"})
        assert (status, refused["error"]["code"]) == (503, "model_load_failed")
        assert refused["error"]["message"].endswith("could not be loaded: /models/m/config.json is damaged.")
        listed = (await ask(house.app, "GET", "/v1/models")).json["data"][0]
        assert (listed["state"], listed["load_error"]) == ("failed", "m/config.json is damaged.")
        assert (await ask(house.app, "GET", "/ready")).status == 503
        assert (await house.post("/v1/models/load", {"model": "m"}))[0] == 200
        ready = await ask(house.app, "GET", "/ready")
        assert (ready.status, ready.json["models"]) == (200, ["m"])

    run(story)


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/models/load", {}, 400, "missing_required_parameter"),
        ("/v1/models/load", {"model": "x"}, 404, "model_not_found"),
        ("/v1/models/load", {"model": 3}, 400, "invalid_type"),
        ("/v1/models/load", {"model": "m", "path": "/x"}, 400, "unknown_parameter"),
        ("/v1/models/unload", {"model": "x"}, 404, "model_not_found"),
        ("/sleep?level=3", b"", 400, "invalid_value"),
        ("/sleep?level=", b"", 400, "invalid_value"),
        ("/sleep?levle=1", b"", 400, "unknown_parameter"),
        ("/sleep?mode=abort", b"", 400, "unsupported_parameter"),
        ("/sleep?model=x", b"", 404, "model_not_found"),
        ("/sleep?model=m", b"", 409, "model_not_loaded"),
        ("/wake_up?tags=weights", b"", 400, "unsupported_parameter"),
        ("/wake_up?level=1", b"", 400, "unknown_parameter"),
        ("/wake_up?model=m", b"", 409, "model_not_loaded"),
    ],
)
def test_what_cannot_be_done_is_told(path: str, body: Any, status: int, code: str) -> None:
    async def story() -> None:
        house = FakeHouse()
        got, answer = await house.post(path, body)
        assert (got, answer["error"]["code"]) == (status, code)
        assert house.states == {"m": "unloaded", "n": "unloaded"}

    run(story)


def test_all_models_sleep_and_wake_and_those_that_are_unloaded_are_left_alone() -> None:
    async def story() -> None:
        house = FakeHouse()
        await house.residences["m"].load()
        assert not await house.is_sleeping()
        status, slept = await house.post("/sleep")
        assert (status, [model["state"] for model in slept["data"]]) == (200, ["sleeping", "unloaded"])
        assert (house.residences["m"].sleep_level, await house.is_sleeping()) == (1, True)
        assert await house.is_sleeping("?model=m")
        assert not await house.is_sleeping("?model=n")
        status, awake = await house.post("/wake_up")
        assert (status, [model["state"] for model in awake["data"]]) == (200, ["loaded", "unloaded"])
        assert house.models["m"].sleeper.told == ["start", "sleep", "wake"]
        assert not await house.is_sleeping()

    run(story)


def test_one_model_sleeps_as_deep_as_it_is_told_while_the_other_answers() -> None:
    async def story() -> None:
        house = FakeHouse()
        await house.load_all()
        assert (await house.post("/sleep?level=2&model=n"))[0] == 200
        assert house.states == {"m": "loaded", "n": "sleeping"}
        assert house.models["n"].sleeper.told == ["start", "stop"]
        assert (await house.post("/v1/chat/completions", CHAT))[0] == 200
        assert (await ask(house.app, "GET", "/ready")).json["models"] == ["m", "n"]
        assert (await house.post("/v1/chat/completions", {**CHAT, "model": "n"}))[0] == 200
        assert house.states == {"m": "loaded", "n": "loaded"}

    run(story)


def test_what_is_under_way_ends_before_a_model_sleeps_and_what_does_not_keeps_it_awake() -> None:
    async def story() -> None:
        house = FakeHouse(drain_timeout_s=0.0)
        await house.load_all()
        go_on = asyncio.Event()
        house.models["m"].script = (go_on, Chunk(data=b"{}"))
        answering = asyncio.create_task(house.post("/v1/chat/completions", CHAT))
        await house.models["m"].begun.wait()
        status, refused = await house.post("/sleep?model=m")
        assert (status, refused["error"]["code"]) == (409, "model_busy")
        assert refused["error"]["message"] == (
            "The model 'm' stays awake: 1 requests are under way after 0 s (--drain-timeout)."
        )
        assert house.residences["m"].state is ModelState.LOADED
        go_on.set()
        assert (await answering)[0] == 200
        assert (await house.post("/sleep?model=m"))[0] == 200

    run(story)


def test_a_reason_not_to_sleep_is_told() -> None:
    async def story() -> None:
        house = FakeHouse()
        await house.load_all()
        house.models["m"].sleeper.fails = [CannotSleep("the disk is full.")]
        status, refused = await house.post("/sleep?model=m")
        assert (status, refused["error"]["code"]) == (409, "cannot_sleep")
        assert "the disk is full." in refused["error"]["message"]
        assert house.states["m"] == "loaded"

    run(story)


def test_an_engine_that_dies_on_its_way_to_sleep_is_out_of_memory_and_comes_back() -> None:
    async def story() -> None:
        house = FakeHouse()
        await house.load_all()
        house.models["m"].sleeper.fails = [EngineDead("hung")]
        assert (await house.post("/sleep?model=m"))[0] == 200
        assert house.states["m"] == "sleeping"
        assert (await house.post("/v1/chat/completions", CHAT))[0] == 200
        assert house.states["m"] == "loaded"

    run(story)


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/sleep", {"level": 2}, "This call has no body"),
        ("/wake_up", {"model": "m"}, "This call has no body"),
        ("/sleep?level=1&level=2", b"", "'level' is given 2 times"),
    ],
)
def test_what_would_be_passed_over_is_refused(path: str, body: object, told: str) -> None:
    async def story() -> None:
        house = FakeHouse()
        await house.load_all()
        status, refused = await house.post(path, body)
        assert (status, house.states["m"]) == (400, "loaded")
        assert told in refused["error"]["message"]

    run(story)


def test_loads_and_unloads_at_once_are_done_one_after_the_other() -> None:
    async def story() -> None:
        house = FakeHouse()
        paths = ("/v1/models/load", "/v1/models/unload") * 4
        calls = await asyncio.gather(*(house.post(path, {"model": "m"}) for path in paths))
        assert {status for status, _ in calls} == {200}
        told = house.models["m"].sleeper.told
        assert told == ["start", "stop"] * (len(told) // 2)

    run(story)


def test_a_request_that_cannot_be_answered_wakes_nobody() -> None:
    async def story() -> None:
        house = FakeHouse()
        await house.load_all()
        await house.post("/sleep")
        assert (await house.post("/v1/chat/completions", {**CHAT, "temprature": 1}))[0] == 400
        assert house.states == {"m": "sleeping", "n": "sleeping"}

    run(story)


def test_a_model_that_came_into_the_folder_since_the_start_is_found_when_it_is_to_be_loaded(tmp_path: Path) -> None:
    async def story() -> None:
        folder = ModelFolder(path=tmp_path, template=ServedModel(name="x", engine=EngineConfig(model=tmp_path)))
        metrics = Metrics()
        house = House(ServeOptions(models=(), models_dir=folder), metrics, lambda name, info: None)
        assert (house.upstreams, house.at_start) == ({}, [])
        (tmp_path / "late.gguf").touch()
        for name in ("late", "late", "other"):
            await house.look_for(name)
        assert ([*house.upstreams], [*house.residences]) == (["late"], ["late"])
        assert 'servery_model_state{model_name="late",state="unloaded"} 1.0' in metrics.render().decode()
        shutil.rmtree(tmp_path)
        await house.look_for("gone")

    run(story)
