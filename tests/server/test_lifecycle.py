import asyncio
from typing import Any

from servery.server.app import App
from servery.upstream.upstream import Chunk
from tests.server.asgi import ask, start
from tests.server.fakes import FakeUpstream, make_service

STREAM = b'{"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": true}'
PATH = "/v1/chat/completions"
A = Chunk(data=b'data: {"text":"a"}\n\n', tokens=1)


def test_a_server_that_stops_refuses_new_work_and_finishes_the_old() -> None:
    async def story() -> None:
        gate = asyncio.Event()
        service = make_service(FakeUpstream(A, gate, A))
        app = App(service)
        old = start(app, "POST", PATH, STREAM)
        await old.until(A.data)
        draining = asyncio.create_task(service.lifecycle.drain(60.0))
        await asyncio.sleep(0)

        new = await ask(app, "POST", PATH, STREAM)
        ready, health = await ask(app, "GET", "/ready"), await ask(app, "GET", "/health")
        assert (new.status, new.headers["retry-after"], new.headers["connection"]) == (503, "1", "close")
        assert (ready.status, health.status) == (503, 200)

        gate.set()
        assert await draining
        await old.task
        assert old.events[-1] == "[DONE]"

    asyncio.run(story())


def test_what_cannot_finish_in_time_is_told_so() -> None:
    async def story() -> None:
        service = make_service(FakeUpstream(A, asyncio.Event()), FakeUpstream(asyncio.Event(), name="silent"))
        begun = start(App(service), "POST", PATH, STREAM)
        silent = start(App(service), "POST", PATH, STREAM.replace(b'"m"', b'"silent"'))
        await begun.until(A.data)

        assert not await service.lifecycle.drain(0.0)
        await asyncio.gather(begun.task, silent.task)
        assert begun.events[-1]["error"]["code"] == "service_unavailable"
        assert "[DONE]" not in begun.events
        assert (silent.status, silent.error["code"]) == (503, "service_unavailable")
        assert service.lifecycle.in_flight == 0

    asyncio.run(story())


def test_an_idle_server_stops_at_once() -> None:
    async def story() -> bool:
        return await make_service(FakeUpstream()).lifecycle.drain(0.0)

    assert asyncio.run(story())


def test_a_cancellation_that_is_not_ours_goes_on() -> None:
    async def story() -> Any:
        upstream = FakeUpstream(asyncio.Event())
        call = start(App(make_service(upstream)), "POST", PATH, STREAM)
        await upstream.begun.wait()
        call.task.cancel()
        result = await asyncio.gather(call.task, return_exceptions=True)
        assert upstream.closed == 1
        return result

    assert isinstance(asyncio.run(story())[0], asyncio.CancelledError)
