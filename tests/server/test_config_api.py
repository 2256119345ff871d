import asyncio
from dataclasses import replace

from servery.config.errors import ConfigError, Fault
from servery.server.app import App
from servery.upstream.upstream import Health
from tests.server.asgi import ask
from tests.server.fakes import FakeUpstream, make_app, make_service


def test_what_is_in_force_is_told_with_its_generation_and_how_each_deployment_is() -> None:
    async def story() -> None:
        loading = FakeUpstream(name="n")
        loading.state = Health(False, "it is loading", 0.0)
        told = (await ask(make_app(FakeUpstream(), loading), "GET", "/v1/config")).json
        well = {
            "kind": "embedded", "tier": "embedded", "model": "m", "standing": "free", "is_ready": True, "reason": "",
            "in_flight": 0, "waiting": 0, "breaker": "closed",
        }  # fmt: skip
        assert told == {
            "object": "config",
            "generation": 1,
            "models": {name: {"place": "first", "tiers": [[name]]} for name in "mn"},
            "deployments": {
                "m": well,
                "n": {**well, "model": "n", "standing": "unready", "is_ready": False, "reason": "it is loading"},
            },
        }

    asyncio.run(story())


def test_without_a_file_there_is_nothing_to_read_again() -> None:
    async def story() -> None:
        refused = await ask(make_app(FakeUpstream()), "POST", "/v1/config/reload")
        assert (refused.status, refused.error["code"]) == (409, "no_configuration")

    asyncio.run(story())


def test_a_file_that_cannot_be_used_is_refused_with_every_fault() -> None:
    async def reload() -> None:
        raise ConfigError("servery.yaml", [Fault(3, ("models",), "it is empty.")])

    async def story() -> None:
        service = replace(make_service(FakeUpstream()), reload=reload)
        refused = await ask(App(service), "POST", "/v1/config/reload")
        assert (refused.status, refused.error["code"]) == (422, "invalid_configuration")
        assert refused.error["message"] == "servery.yaml: line 3: models: it is empty."

    asyncio.run(story())
