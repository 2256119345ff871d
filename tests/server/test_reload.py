"""A configuration with dummies elsewhere, taken up while an application answers."""

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from servery.config.errors import ConfigError
from servery.config.live import LiveConfig
from servery.config.load import load_config
from servery.config.types import Config
from servery.gateway.fleet import Fleet
from servery.gateway.gateway import Gateway
from servery.server.admin import AdminDoor
from servery.server.app import App
from servery.server.configured import configured_options
from servery.server.front import Fronts
from servery.server.house import House
from servery.server.metrics_door import MetricsDoor
from servery.server.option_error import OptionError
from servery.server.places import Places
from servery.server.reload import Reloader
from servery.server.service import Service
from servery.telemetry.metrics import Metrics
from tests.gateway.dummy import TEXT, dummy
from tests.server.asgi import ask, start

FILE = """
server: {{ api_keys: [{key}]{server} }}
deployments:
  {name}: {{ kind: vllm, url: "{url}", model: {model}, price: free{place} }}
{further}models:
  chat: {{ deployments: [{name}], retry: {{ attempts: 1 }}, timeouts: {{ total: {total} }} }}
{models}"""
CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}


@dataclass
class Site:
    """An application by a file."""

    file: Path
    url: str
    service: Service
    live: LiveConfig
    reloader: Reloader
    places: Places
    house: House

    @property
    def app(self) -> App:
        return App(self.service)

    def write(self, **fields: str) -> None:
        self.file.write_text(written(self.url, **fields))


def written(url: str, **fields: str) -> str:
    values = {
        "name": "a",
        "key": "one",
        "model": "well",
        "total": "10s",
        "server": "",
        "place": "",
        "further": "",
        "models": "",
    }
    return FILE.format(url=url, **values | fields)


@contextlib.asynccontextmanager
async def site(folder: Path) -> AsyncIterator[tuple[Site, asyncio.Event]]:
    """With what lets its dummy go on behind the third word."""
    async with dummy() as server:
        file, metrics = folder / "servery.yaml", Metrics()
        file.write_text(written(server.url))
        config = load_config(file, {})
        options = configured_options(config, api_keys=("beside",))
        keys = options.key_ring()
        house = House(options, metrics, lambda name, info: None)
        places = Places(house)
        gateway = Gateway(Fleet.of(config, places.upstream, time.monotonic, random.random), metrics)
        service = Service(
            upstreams=Fronts(gateway), gateway=gateway, options=options, keys=keys,
            admin=AdminDoor(options.admin_keys, keys, options.host),
            metrics_door=MetricsDoor(options.metrics_keys, options.admin_keys, keys), clock=time.monotonic, metrics=metrics,
        )  # fmt: skip
        live = LiveConfig(config, {})
        reloader = Reloader(live, service, places)
        try:
            yield Site(file, server.url, service, live, reloader, places, house), server.heard
        finally:
            await places.stop(gateway.upstreams)


def key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}


def test_models_keys_and_deployments_are_those_of_the_file_of_now(tmp_path: Path) -> None:
    async def story() -> None:
        async with site(tmp_path) as (made, heard):
            heard.set()
            answer = await ask(made.app, "POST", "/v1/chat/completions", CHAT, **key("one"))
            assert (answer.headers["x-servery-deployment"], answer.json["choices"][0]["message"]["content"]) == (
                "a",
                TEXT,
            )
            assert (await ask(made.app, "GET", "/ready")).json["models"] == ["chat"]

            made.write(name="b", key="two")
            done = await made.reloader.reload()

            assert (done.config.generation, str(done.deployments)) == (2, "added b, removed a")
            for name, status in (("one", 401), ("two", 200), ("beside", 200)):
                again = await ask(made.app, "POST", "/v1/chat/completions", CHAT, **key(name))
                assert again.status == status

            assert made.service.viewers.is_empty
            made.write(name="b", key="two", server=", viewer_keys: [wall]")
            await made.reloader.reload()
            assert made.service.viewers.find("wall") is not None
            made.write(name="b", key="two")
            await made.reloader.reload()
            assert made.service.viewers.find("wall") is None
            assert again.headers["x-servery-deployment"] == "b"

    asyncio.run(story())


def test_the_file_is_read_beside_the_requests_and_of_two_reloads_the_later_one_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand models took half a second to be read, in which nobody was served."""

    async def story() -> None:
        async with site(tmp_path) as (made, heard):
            heard.set()
            loop, begun, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
            read, under_way = made.live.read, 0

            def slow() -> Config:
                nonlocal under_way
                under_way += 1
                assert under_way == 1  # never two at a time
                found = read()
                loop.call_soon_threadsafe(begun.set)
                assert go_on.wait(30)
                under_way -= 1
                return found

            monkeypatch.setattr(made.live, "read", slow)
            made.write(name="b")
            first = asyncio.create_task(made.reloader.reload())
            await begun.wait()
            answer = await ask(made.app, "POST", "/v1/chat/completions", CHAT, **key("one"))
            assert (answer.status, answer.headers["x-servery-deployment"]) == (200, "a")
            made.write(name="c")
            second = asyncio.create_task(made.reloader.reload())
            go_on.set()
            assert [(await each).config.generation for each in (first, second)] == [2, 3]
            assert list(made.service.gateway.fleet.deployments) == ["c"]

    asyncio.run(story())


def test_an_answer_under_way_ends_where_it_began_and_its_deployment_is_let_go_then(tmp_path: Path) -> None:
    async def story() -> None:
        async with site(tmp_path) as (made, heard):
            call = start(made.app, "POST", "/v1/chat/completions", b'{"stream":true,' + _body(), **key("one"))
            await call.until(b"three")
            old = made.service.gateway.fleet.deployments["a"]
            made.write(name="b")
            await made.reloader.reload()
            assert old.in_flight == 1
            heard.set()
            await call.task
            assert call.body.endswith(b"data: [DONE]\n\n")
            await old.slots.until_idle()

    asyncio.run(story())


def test_a_server_that_stops_takes_along_what_it_was_about_to_let_go(tmp_path: Path) -> None:
    async def story() -> None:
        stopped: list[str] = []
        async with site(tmp_path) as (made, heard):
            call = start(made.app, "POST", "/v1/chat/completions", b'{"stream":true,' + _body(), **key("one"))
            await call.until(b"three")
            old = made.service.gateway.fleet.deployments["a"].upstream

            async def stop() -> None:
                stopped.append("a")

            old.stop = stop  # type: ignore[method-assign]
            made.write(name="b")
            await made.reloader.reload()
            await asyncio.sleep(0)
            await made.places.stop(made.service.gateway.upstreams)
            assert stopped == ["a"]
            call.disconnect()
            heard.set()
            await call.task

    asyncio.run(story())


def _body() -> bytes:
    return b'"model":"chat","messages":[{"role":"user","content":"hi"}]}'


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"model": "'${NOWHERE}'"}, "NOWHERE"), ({"total": "soon"}, "total")],
)
def test_a_bad_file_changes_nothing(
    tmp_path: Path, fields: dict[str, str], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        async with site(tmp_path) as (made, heard):
            heard.set()
            before = made.service.gateway.fleet
            made.write(key="two", **fields)
            with pytest.raises(ConfigError, match=message):
                await made.reloader.reload()
            await made.reloader.try_to_reload("file")
            assert made.service.gateway.fleet is before
            assert (await ask(made.app, "POST", "/v1/chat/completions", CHAT, **key("one"))).status == 200
            assert (await ask(made.app, "POST", "/v1/chat/completions", CHAT, **key("two"))).status == 401

    asyncio.run(story())
    assert "the configuration stays as it was" in caplog.text


@pytest.mark.parametrize(
    ("late", "message"),
    [
        ('{ kind: vllm, model: m, price: free, url: "http://h/v1/ü" }', "deployments?.late"),
        ('{ kind: bedrock, model: m, price: free, region: "eu west" }', "deployments?.late"),
        ("{ kind: embedded, model: amuse, engine: { max_runing: 3 } }", "deployments?.late"),
    ],
)
def test_a_deployment_that_cannot_be_made_leaves_the_others_as_they_were(
    tmp_path: Path, late: str, message: str
) -> None:
    async def story() -> None:
        async with site(tmp_path) as (made, _):
            fleet, options = made.service.gateway.fleet, made.service.options
            made.write(
                place=", max_concurrency: 9",
                server=", keep_alive: 2s",
                further=f"  own: {{ kind: embedded, model: amuse }}\n  late: {late}\n",
                models="  more: { deployments: [own, late] }\n",
            )
            with pytest.raises((OptionError, ConfigError), match=message):
                await made.reloader.reload()
            assert fleet.deployments["a"].slots.limit is None
            assert (made.house.upstreams, made.house.residences) == ({}, {})
            assert (made.service.gateway.fleet, made.service.options) == (fleet, options)

    asyncio.run(story())


def test_bounds_and_times_of_the_server_follow_the_file(tmp_path: Path) -> None:
    async def story() -> None:
        async with site(tmp_path) as (made, heard):
            heard.set()
            made.write(server=", max_body: 16B, keep_alive: 2s, drain_timeout: 3s", total="20s")
            await made.reloader.reload()
            options = made.service.options
            assert (options.keep_alive_s, options.drain_timeout_s, options.request_timeout_s) == (2.0, 3.0, 20.0)
            answer = await ask(made.app, "POST", "/v1/chat/completions", CHAT, **key("one"))
            assert answer.status == 413
            made.write()
            await made.reloader.reload()
            assert (await ask(made.app, "POST", "/v1/chat/completions", CHAT, **key("one"))).status == 200

    asyncio.run(story())


def test_a_model_has_a_total_time_of_its_own(tmp_path: Path) -> None:
    async def story() -> None:
        async with site(tmp_path) as (made, _):
            made.write(model="silent", total="50ms")
            await made.reloader.reload()
            late = await ask(made.app, "POST", "/v1/chat/completions", {**CHAT, "stream": True}, **key("one"))
            assert (late.status, late.error["code"]) == (504, "timeout")
            assert "0.05 s" in late.error["message"]

    asyncio.run(story())
