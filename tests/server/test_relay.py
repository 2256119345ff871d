import asyncio
from typing import Any

import pytest

from servery.config.types import Config
from servery.server import reply
from servery.server.app import App
from servery.server.types import Event
from servery.upstream.upstream import Chunk
from servery.wire.errors import failed, rate_limited
from tests.server.asgi import ask, start
from tests.server.fakes import FakeUpstream, Step, make_app, make_service

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
STREAM = b'{"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": true}'
PATH = "/v1/chat/completions"
A, B = Chunk(data=b'data: {"text":"a"}\n\n', tokens=1), Chunk(data=b'data: {"text":"b"}\n\n', tokens=1)


def test_a_stream_is_relayed_as_it_comes_and_ends_with_done() -> None:
    async def story() -> None:
        gate = asyncio.Event()
        call = start(make_app(FakeUpstream(A, gate, B)), "POST", PATH, STREAM)
        await call.until(b'"a"')
        assert call.body == A.data
        gate.set()
        await call.task

        assert call.body == A.data + B.data + b"data: [DONE]\n\n"
        assert {name: call.headers[name] for name in ("content-type", "cache-control", "x-accel-buffering")} == {
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache",
            "x-accel-buffering": "no",
        }
        assert call.is_complete

    asyncio.run(story())


def test_the_head_waits_for_the_first_event() -> None:
    async def story() -> None:
        upstream = FakeUpstream(Chunk(prompt_tokens=5), asyncio.Event())
        call = start(make_app(upstream), "POST", PATH, STREAM)
        await upstream.begun.wait()
        await asyncio.sleep(0)

        assert call.writes == []
        call.disconnect()
        await call.task

    asyncio.run(story())


def test_an_answer_that_is_not_streamed_comes_whole() -> None:
    async def story() -> None:
        upstream = FakeUpstream(Chunk(tokens=1), Chunk(data=b'{"a":1}'))
        call = await ask(make_app(upstream), "POST", PATH, CHAT)

        assert (call.body, call.headers["content-length"], call.writes) == (b'{"a":1}', "7", ["head", "body"])

    asyncio.run(story())


@pytest.mark.parametrize("error", [failed("broken"), KeyError("broken")])
def test_an_error_in_the_middle_is_one_event_without_done(error: Exception) -> None:
    async def story() -> None:
        upstream = FakeUpstream(A, error)
        call = await ask(make_app(upstream), "POST", PATH, STREAM)

        assert call.status == 200
        assert [list(event) for event in call.events] == [["text"], ["error"]]
        assert call.events[1]["error"]["code"] == "internal_error"
        assert not call.is_complete  # so that the server cuts the connection, and nobody takes it for an end
        assert call.task.done()
        assert upstream.closed == 1

    asyncio.run(story())


@pytest.mark.parametrize("script", [[], [A]])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_aborts_the_answer(script: list[Step], stream: bool) -> None:
    async def story() -> None:
        upstream = FakeUpstream(*script, asyncio.Event())
        service = make_service(upstream)
        call = start(App(service), "POST", PATH, STREAM if stream else STREAM.replace(b"true", b"false"))
        await upstream.begun.wait()
        call.disconnect()
        await call.task

        assert upstream.closed == 1
        assert call.body == (A.data if script and stream else b"")
        shown = service.metrics.render().decode()
        assert 'servery_request_aborts_total{by="client",model_name="m"} 1.0' in shown
        assert f'route="{PATH}",status="499"' in shown
        assert service.lifecycle.in_flight == 0

    asyncio.run(story())


@pytest.mark.parametrize(("script", "status"), [([], 504), ([A], 200)])
def test_an_answer_that_takes_too_long_is_ended(script: list[Step], status: int) -> None:
    async def story() -> None:
        upstream = FakeUpstream(*script, asyncio.Event())
        call = await ask(make_app(upstream, request_timeout_s=0.5), "POST", PATH, STREAM)

        assert call.status == status
        error = call.error if status == 504 else call.events[-1]["error"]
        assert error["code"] == "timeout"
        assert status == 200 or call.headers["x-should-retry"] == "false"
        assert upstream.closed == 1

    asyncio.run(story())


@pytest.mark.parametrize(
    ("fields", "setting"),
    [({}, "--request-timeout"), ({"config": Config(models={}, deployments={})}, "timeouts.total of the model")],
)
def test_who_is_cut_short_is_told_by_which_setting(fields: dict[str, Any], setting: str) -> None:
    async def story() -> None:
        upstream = FakeUpstream(asyncio.Event())
        call = await ask(make_app(upstream, request_timeout_s=0.05, **fields), "POST", PATH, STREAM)
        assert call.error["message"] == f"The answer took longer than this server's limit of 0.05 s ({setting})."

    asyncio.run(story())


def test_a_client_that_reads_nothing_cannot_hold_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply, "_LAST_WORDS_S", 0.01)

    async def story() -> None:
        async def stuck(_: Event) -> None:
            await asyncio.Event().wait()

        upstream = FakeUpstream(A, A)
        service = make_service(upstream, request_timeout_s=0.5)
        call = start(App(service), "POST", PATH, STREAM, send=stuck)
        await call.task

        assert upstream.closed == 1
        assert service.lifecycle.in_flight == 0

    asyncio.run(story())


def test_a_silent_stream_is_kept_alive_by_comments_of_one_line() -> None:
    async def story() -> None:
        before, between = asyncio.Event(), asyncio.Event()
        upstream = FakeUpstream(before, A, between, failed("late"))
        call = start(make_app(upstream, keep_alive_s=0.01), "POST", PATH, STREAM)
        await call.until(b": ka\n: ka\n")
        before.set()
        await call.until(A.data + b": ka\n")
        between.set()
        await call.task

        assert call.status == 200
        assert call.body.replace(b": ka\n", b"").startswith(A.data)
        assert call.events[-1]["error"]["message"] == "late"

    asyncio.run(story())


def test_an_answer_is_counted_when_it_is_over() -> None:
    async def story() -> None:
        upstream = FakeUpstream(
            Chunk(tokens=1, prompt_tokens=9, cached_tokens=4, queued_s=0.25),
            Chunk(data=b"{}", tokens=2, finish_reason="length"),
        )
        service = make_service(upstream)
        await ask(App(service), "POST", PATH, CHAT)

        shown = service.metrics.render().decode()
        for line in (
            'servery_prompt_tokens_total{model_name="m"} 9.0',
            'servery_prompt_tokens_cached_total{model_name="m"} 4.0',
            'servery_generation_tokens_total{model_name="m"} 3.0',
            'servery_request_success_total{finished_reason="length",model_name="m"} 1.0',
            'servery_request_queue_time_seconds_sum{model_name="m"} 0.25',
            'servery_time_to_first_token_seconds_count{model_name="m"} 1.0',
            'servery_e2e_request_latency_seconds_count{model_name="m"} 1.0',
        ):
            assert line in shown
        assert 'aborts_total{by="client",model_name="m"} 0.0' in shown

    asyncio.run(story())


@pytest.mark.parametrize(
    ("script", "stream", "aborts", "answers"),
    [
        ([failed("broken")], False, 1, 0),  # 500, before the first token
        ([A, rate_limited("full", 1.0)], True, 1, 1),  # in the stream: whatever it is, the answer ends there
        ([Chunk(prompt_tokens=1), rate_limited("full", 1.0)], False, 0, 0),  # one of several prompts is refused: 429
    ],
)
def test_an_answer_cut_short_has_a_latency_once_it_has_a_token(
    script: list[Step], stream: bool, aborts: int, answers: int
) -> None:
    async def story() -> None:
        service = make_service(FakeUpstream(*script))
        await ask(App(service), "POST", PATH, STREAM if stream else CHAT)

        shown = service.metrics.render().decode()
        assert f'servery_request_aborts_total{{by="error",model_name="m"}} {aborts}.0' in shown
        assert f'servery_e2e_request_latency_seconds_count{{model_name="m"}} {answers}.0' in shown

    asyncio.run(story())


def test_a_refusal_is_no_answer_that_was_cut_short() -> None:
    """Otherwise a flood of 429 would make the latencies look good and the aborts bad."""

    async def story() -> None:
        service = make_service(FakeUpstream(rate_limited("full", 1.0)))
        await ask(App(service), "POST", PATH, CHAT)

        shown = service.metrics.render().decode()
        assert f'servery_http_requests_total{{method="POST",route="{PATH}",status="429"}} 1.0' in shown
        assert 'servery_e2e_request_latency_seconds_count{model_name="m"} 0.0' in shown
        assert 'servery_request_aborts_total{by="error",model_name="m"} 0.0' in shown

    asyncio.run(story())
