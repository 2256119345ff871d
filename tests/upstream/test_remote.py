"""Asking deployments over real sockets: what they are sent, what clients get, and what goes wrong on the way."""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from servery.config.secret import Secret
from servery.config.types import Kind, Probe
from servery.upstream import failure, remote
from servery.upstream.ask import Api
from servery.upstream.failure import Deadline, UpstreamFailure
from servery.upstream.kinds import remote_upstream
from servery.upstream.upstream import Call, Health
from servery.wire.chat import ChatRequest
from servery.wire.errors import ApiError
from servery.wire.usage import Usage
from tests.scripted_server import CUT, DONE, ScriptedServer, chunk, event, head, json_answer, scripted, stream
from tests.upstream.anthropic.test_answer import EVENTS
from tests.upstream.anthropic.test_answer import wire as anthropic_wire
from tests.upstream.elsewhere import answer, ask, deployment, said, upstream

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
TEXT = {"type": "message", "content": [{"type": "text", "text": "Okay"}], "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 2}, "model": "theirs"}  # fmt: skip


def run(script: dict[str, list[list[Any]]], story: Callable[[ScriptedServer], Coroutine[Any, Any, None]]) -> None:
    async def all_of_it() -> None:
        async with scripted(script) as server:
            await story(server)

    asyncio.run(all_of_it())


def failed(pieces: list[Any], kind: Kind = Kind.VLLM, **call: Any) -> UpstreamFailure:
    """The failure that a stream comes to when the deployment answers so."""
    found: list[UpstreamFailure] = []

    async def story(server: ScriptedServer) -> None:
        with pytest.raises(UpstreamFailure) as caught:
            await answer(deployment(kind, f"{server.url}/v1"), ask(Api.CHAT, stream=True), **call)
        found.append(caught.value)

    run({CHAT: [pieces], MESSAGES: [pieces]}, story)
    return found[0]


def test_a_stream_is_passed_on_and_asked_for_as_the_client_did() -> None:
    async def story(server: ScriptedServer) -> None:
        config = deployment(Kind.OPENAI, f"{server.url}/v1", api_key=Secret("sk-1"), headers={"X-Team": Secret("blue")})
        asked = ask(Api.CHAT, (("traceparent", "00-1"),), stream=True, odd={"a": None}, temperature=0.5)
        chunks = await answer(config, asked)

        [got] = server.asked
        assert (got.method, got.path) == ("POST", CHAT)
        assert got.body == {
            "model": "theirs", "messages": [{"role": "user", "content": "hi"}], "stream": True, "odd": {"a": None},
            "temperature": 0.5, "stream_options": {"include_usage": True},
        }  # fmt: skip
        sent = {name: got.headers[name] for name in ("authorization", "x-team", "traceparent", "accept")}
        assert sent == {
            "authorization": "Bearer sk-1", "x-team": "blue", "traceparent": "00-1", "accept": "text/event-stream",
        }  # fmt: skip
        told = said(chunks)
        assert told.count(b'"model":"mine"') + told.count(b'"model": "mine"') == 3
        assert b"usage" not in told
        assert (chunks[-1].usage, sum(each.tokens for each in chunks)) == (Usage.of(10, 2, 0), 2)

    run({CHAT: [stream("a", "b")]}, story)


@pytest.mark.parametrize("api", [Api.MESSAGES, Api.RESPONSES])
@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_of_another_api_gets_its_own(api: Api, is_stream: bool) -> None:
    async def story(server: ScriptedServer) -> None:
        chunks = await answer(deployment(Kind.TGI, f"{server.url}/v1", apis={"chat"}), ask(api, stream=is_stream))

        assert server.asked[0].body["messages"][-1] == {"role": "user", "content": "hi"}
        assert (b"event: " in said(chunks)) == is_stream
        assert b"a b" in said(chunks) or (b'"a "' in said(chunks) and b'"b"' in said(chunks))
        assert chunks[-1].usage == Usage.of(10, 2, 0)
        assert [each.finish_reason for each in chunks if each.finish_reason] == ["stop"]

    whole = {
        "choices": [{"index": 0, "message": {"content": "a b"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2},
    }
    run({CHAT: [stream("a ", "b") if is_stream else json_answer(whole)]}, story)


@pytest.mark.parametrize("api", [Api.CHAT, Api.RESPONSES])
def test_anthropic_answers_clients_of_openai(api: Api) -> None:
    async def story(server: ScriptedServer) -> None:
        config = deployment(Kind.ANTHROPIC, f"{server.url}/v1", api_key=Secret("sk-ant"))
        streamed = await answer(config, ask(api, stream=True))
        whole = await answer(config, ask(api))

        headers = server.asked[0].headers
        assert (headers["x-api-key"], headers["anthropic-version"]) == ("sk-ant", "2023-06-01")
        assert (server.asked[0].body["stream"], server.asked[1].body.get("stream")) == (True, None)
        assert (streamed[-1].usage, whole[-1].usage) == (Usage.of(100, 89, 70, 30), Usage.of(3, 2, 0))
        assert b"get_weather" in said(streamed)
        assert b"Okay" in said(whole)

    events = [head(), chunk(anthropic_wire(*EVENTS)), chunk(b"")]
    run({MESSAGES: [events, json_answer(TEXT)]}, story)


def test_anthropic_answers_its_own_clients_in_its_own_words() -> None:
    async def story(server: ScriptedServer) -> None:
        config = deployment(Kind.ANTHROPIC, f"{server.url}/v1")
        headers = (("anthropic-version", "2024-01-01"), ("anthropic-beta", "x"))
        asked = ask(Api.MESSAGES, headers, stream=True, mcp_servers=[{"url": "u"}])
        chunks = await answer(config, asked)

        got = server.asked[0]
        assert (got.headers["anthropic-version"], got.headers["anthropic-beta"]) == ("2024-01-01", "x")
        assert (got.body["model"], got.body["mcp_servers"]) == ("theirs", [{"url": "u"}])
        assert said(chunks) == anthropic_wire(*EVENTS).replace(b'"model": "claude-opus-4-6"', b'"model": "mine"')
        assert [each.usage for each in chunks if each.usage][-1] == Usage.of(100, 89, 70, 30)

    run({MESSAGES: [[head(), chunk(anthropic_wire(*EVENTS)), chunk(b"")]]}, story)


def test_a_response_that_goes_on_with_one_kept_here_is_made_of_all_that_was_said() -> None:
    async def story(server: ScriptedServer) -> None:
        config = deployment(Kind.OPENAI, f"{server.url}/v1")
        await answer(config, ask(Api.RESPONSES, is_known=True, stream=True, previous_response_id="r"))

        assert [message["content"] for message in server.asked[0].body["messages"]] == ["before", "hi"]

    run({CHAT: [stream("a")]}, story)


def test_an_answer_is_gone_on_with_behind_what_the_client_has() -> None:
    async def story(server: ScriptedServer) -> None:
        chunks = await answer(deployment(Kind.VLLM, f"{server.url}/v1"), ask(Api.CHAT, stream=True), continued="I am")

        body = server.asked[0].body
        assert body["messages"][-1] == {"role": "assistant", "content": "I am"}
        assert body["continue_final_message"] is True
        assert [delta.content for each in chunks for delta in each.deltas if delta.content] == ["a"]

    run({CHAT: [stream("a")]}, story)


def test_an_answer_that_is_written_once_more_is_read() -> None:
    async def story(server: ScriptedServer) -> None:
        chunks = await answer(deployment(Kind.VLLM, f"{server.url}/v1"), ask(Api.CHAT, stream=True), form=None)

        assert [delta.content for each in chunks for delta in each.deltas if delta.content] == ["a", "b"]

    run({CHAT: [stream("a", "b")]}, story)


def test_a_server_that_counts_nothing_is_counted_for() -> None:
    async def story(server: ScriptedServer) -> None:
        chunks = await answer(deployment(Kind.TGI, f"{server.url}/v1", apis={"chat"}), ask(Api.MESSAGES, stream=True))

        assert (chunks[-1].usage, chunks[-1].is_estimated) == (Usage.of(0, 2, 0), True)

    words = [head(), chunk(event("a") + event("b") + event(finish_reason="stop") + DONE), chunk(b"")]
    run({CHAT: [words]}, story)


def test_an_api_that_a_deployment_lacks_may_be_had_elsewhere() -> None:
    async def story() -> None:
        with pytest.raises(UpstreamFailure, match="not served for embeddings") as caught:
            await answer(deployment(Kind.ANTHROPIC, "http://127.0.0.1:9/v1"), ask(Api.EMBEDDINGS))
        assert (caught.value.error.status, caught.value.may_go_elsewhere) == (400, True)

    asyncio.run(story())


@pytest.mark.parametrize(
    ("pieces", "kind", "told"),
    [
        ([CUT], failure.Kind.RESET, 503),
        ([head(), CUT], failure.Kind.CUT, 502),
        ([head(), chunk(event("a")), CUT], failure.Kind.CUT, 502),
        ([head(), chunk(event("a")), chunk(b"")], failure.Kind.CUT, 502),
        ([head(content_type="text/html"), chunk(b"<html>hello"), chunk(b"")], failure.Kind.MALFORMED, 502),
        ([head(), chunk(b"data: {\n\n"), chunk(b"")], failure.Kind.MALFORMED, 502),
        ([b"SSH-2.0-OpenSSH\r\n"], failure.Kind.MALFORMED, 502),
        ([head(500), chunk(b"oops"), chunk(b"")], failure.Kind.STATUS, 500),
        ([head(429, retry_after="3"), chunk(b"{}"), chunk(b"")], failure.Kind.THROTTLED, 429),
        ([head(), chunk(b'data: {"error": {"message": "boom"}}\n\n'), chunk(b"")], failure.Kind.STATUS, 500),
    ],
)
def test_every_fault_is_a_failure_of_its_kind(pieces: list[Any], kind: failure.Kind, told: int) -> None:
    found = failed(pieces)

    assert (found.kind, found.error.status) == (kind, told)
    assert "there" in found.message


@pytest.mark.parametrize("fields", [{"verbosity": "low"}, {"brand_new": 1}])
def test_a_field_that_cannot_be_translated_may_be_passed_on_elsewhere(fields: dict[str, Any]) -> None:
    async def story() -> None:
        with pytest.raises(UpstreamFailure) as caught:
            await answer(deployment(Kind.ANTHROPIC, "http://127.0.0.1:9/v1"), ask(Api.CHAT, **fields))
        assert (caught.value.error.status, caught.value.error.param) == (400, *fields)
        assert not caught.value.counts_against_health

    asyncio.run(story())


def test_an_answer_that_does_not_end_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_MAX_BODY_BYTES", 100)

    async def story(server: ScriptedServer) -> None:
        with pytest.raises(UpstreamFailure, match="an answer of more than 100 bytes"):
            await answer(deployment(Kind.VLLM, f"{server.url}/v1"), ask(Api.CHAT))

    run({CHAT: [[head(content_type="application/json"), chunk(b" " * 101), asyncio.Event()]]}, story)


def test_nobody_there_is_a_refusal() -> None:
    async def story() -> None:
        with pytest.raises(UpstreamFailure) as caught:
            await answer(deployment(Kind.VLLM, "http://127.0.0.1:9/v1"), ask(Api.CHAT))
        assert (caught.value.kind, caught.value.counts_against_health) == (failure.Kind.REFUSED, True)

    asyncio.run(story())


def test_an_answer_has_no_more_time_than_it_is_wanted() -> None:
    found = failed([head(), chunk(event("a")), asyncio.Event()], deadline=time.monotonic() + 0.05)

    assert (found.kind, found.deadline) == (failure.Kind.TIMEOUT, Deadline.TOTAL)


def test_what_the_client_did_wrong_is_told_as_the_deployment_says_it() -> None:
    async def story(server: ScriptedServer) -> None:
        with pytest.raises(ApiError) as caught:
            await answer(deployment(Kind.OPENAI, f"{server.url}/v1"), ask(Api.CHAT))
        assert (caught.value.status, caught.value.code, caught.value.message) == (400, "odd_code", "No.")

    run({CHAT: [json_answer({"error": {"message": "No.", "code": "odd_code"}}, 400)]}, story)


@pytest.mark.parametrize("is_stream", [True, False])
def test_closing_an_answer_ends_the_work_there(is_stream: bool) -> None:
    async def story(server: ScriptedServer) -> None:
        async with upstream(deployment(Kind.VLLM, f"{server.url}/v1")) as there:
            chunks = there.answer(ask(Api.CHAT, stream=is_stream), Call(id="1"))  # no form: it is read
            reading = asyncio.ensure_future(anext(chunks))
            if is_stream:
                assert (await reading).deltas[0].content == "a"
            else:
                await _until(lambda: bool(server.asked))
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            await chunks.aclose()
            async with asyncio.timeout(60):
                await server.gone.wait()

    run({CHAT: [[head(), chunk(event("a")), asyncio.Event()] if is_stream else [asyncio.Event()]]}, story)


def test_health_is_what_the_probe_says_and_the_context_what_the_deployment_tells(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def story(server: ScriptedServer) -> None:
        config = deployment(
            Kind.VLLM, f"{server.url}/v1", health=Probe(path="/health", interval_s=0.01), api_key=Secret("k")
        )
        async with upstream(config) as there:
            assert there.health().is_ready
            await there.start()
            await _until(lambda: not there.health().is_ready)
            assert there.health() == Health(False, "GET /health answers 503", 0.0, is_alive=False)
            await _until(lambda: there.model().max_model_len is not None)
            assert (there.health().is_ready, there.model().max_model_len) == (True, 4096)
            assert server.asked[-1].headers["authorization"] == "Bearer k"
            await there.stop()
            await there.stop()

    models = {"object": "list", "data": [{"id": "theirs", "max_model_len": 4096}]}
    script = {"/health": [[head(503), chunk(b"")], [head(), chunk(b"")]], "/v1/models": [json_answer(models)]}
    run(script, story)
    told = [(record.levelname, record.getMessage().partition(" ")[2]) for record in caplog.records]
    assert told == [("WARNING", "takes no requests: GET /health answers 503"), ("INFO", "takes requests again")]


def test_a_name_without_its_date_is_the_model(caplog: pytest.LogCaptureFixture) -> None:
    async def story(server: ScriptedServer) -> None:
        async with upstream(deployment(Kind.ANTHROPIC, f"{server.url}/v1", model="claude-haiku-4-5")) as there:
            await there.start()
            await _until(lambda: there.model().max_model_len == 200_000)
            await there.stop()

    models = {"data": [{"id": "claude-haiku-4-5-20251001", "max_input_tokens": 200_000}]}
    run({"/v1/models?limit=1000": [json_answer(models)]}, story)
    assert caplog.text == ""


def test_a_model_that_is_not_there_is_told_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def story(server: ScriptedServer) -> None:
        async with upstream(deployment(Kind.OPENAI, f"{server.url}/v1")) as there:
            await there.start()
            await _until(lambda: bool(caplog.text))
            await there.stop()

    run({"/v1/models": [json_answer({"data": [{"id": "b"}, {"id": "a"}]})]}, story)
    assert "there does not list 'theirs'; it serves a, b" in caplog.text


@pytest.mark.parametrize("answer_", [{"input_tokens": 7}, {"tokens": 7}])
def test_anthropic_counts_for_its_clients(answer_: dict[str, Any]) -> None:
    async def story(server: ScriptedServer) -> None:
        request = ask(Api.MESSAGES, system="s", temperature=0.5, stop_sequences=["x"]).typed()
        assert isinstance(request, ChatRequest)
        async with upstream(deployment(Kind.ANTHROPIC, f"{server.url}/v1")) as there:
            if "input_tokens" in answer_:
                assert await there.count(request) == 7
            else:
                with pytest.raises(ApiError, match="gave an answer that cannot be used"):
                    await there.count(request)
        hello = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
        assert server.asked[0].body == {"model": "theirs", "system": "s", "messages": hello}

    run({f"{MESSAGES}/count_tokens": [json_answer(answer_)]}, story)


def test_powers_of_an_engine_are_refused_with_a_reason() -> None:
    async def story() -> None:
        async with upstream(deployment(Kind.OPENAI, "http://127.0.0.1:9/v1")) as there:
            with pytest.raises(ApiError, match="'there' cannot do that: it runs elsewhere") as caught:
                await there.count(json.loads("null"))
            assert caught.value.status == 501
            with pytest.raises(ApiError, match="adapters are loaded by whoever runs it"):
                await there.load_adapter("a", Path("a"))
            assert (there.adapters(), there.stats(), there.name) == ({}, None, "there")

    asyncio.run(story())


def test_a_kind_that_runs_here_is_none_of_these() -> None:
    with pytest.raises(ValueError, match="of kind embedded does not run elsewhere"):
        remote_upstream(deployment(Kind.EMBEDDED, None), lambda: None)  # type: ignore[arg-type,return-value]


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 - a probe has no event to wait for
            await asyncio.sleep(0.002)
