import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from servery.engine.engine import EngineState
from servery.engine.errors import EngineDead, InvalidRequest, LoadError, Overloaded, PromptTooLong, RequestFailed
from servery.engine.request import FinishReason, SamplingParams
from servery.engine.scheduler_stats import SchedulerStats
from servery.engine.stats import EngineStats
from servery.engine.tokenizer import Tokenizer
from servery.upstream.embedded import EmbeddedUpstream
from servery.upstream.upstream import Call, Chunk, Health
from servery.wire.chat import decode_chat
from servery.wire.errors import ApiError
from servery.wire.tokenize import decode_detokenize, decode_tokenize
from tests.upstream.fake_engine import END, FakeEngine, asking, logprob, out, save_checkpoint, started

CALL = Call(id="chatcmpl-1", deadline=9.0)
STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path)


def request(**fields: Any) -> Any:
    return decode_chat(json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}).encode())


async def chunks(upstream: EmbeddedUpstream, **fields: Any) -> list[Chunk]:
    return [chunk async for chunk in upstream.answer(asking(request(**fields), CALL), CALL)]


async def whole(upstream: EmbeddedUpstream, **fields: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((await chunks(upstream, **fields))[-1].data)
    return body


async def events(upstream: EmbeddedUpstream, **fields: Any) -> list[dict[str, Any]]:
    data = b"".join(chunk.data for chunk in await chunks(upstream, stream=True, **fields)).decode()
    return [json.loads(line[6:]) for line in data.splitlines() if line]


async def refusal(upstream: EmbeddedUpstream, **fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await chunks(upstream, **fields)
    return caught.value


def test_a_chat_is_rendered_generated_and_answered_whole(checkpoint: Path) -> None:
    async def story() -> None:
        engine = FakeEngine(checkpoint, out("he", cached_tokens=4), out("y"), out(end=STOP))
        upstream = await started(engine)

        answer = await whole(upstream, temperature=0.5, seed=7, max_tokens=9)
        assert answer["choices"] == [
            {
                "index": 0,
                "message": {"content": "hey", "role": "assistant", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ]
        assert answer["usage"] == {
            "prompt_tokens": 19, "completion_tokens": 4, "total_tokens": 23,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }  # fmt: skip
        [sent] = engine.requests
        assert bytes(sent.prompt) == b"<user>hi<assistant>"
        assert sent.params == SamplingParams(temperature=0.5, seed=7, max_tokens=9)
        assert (sent.request_id, sent.deadline) == ("chatcmpl-1-0", 9.0)

    asyncio.run(story())


def test_a_stream_has_role_text_finish_and_usage(checkpoint: Path) -> None:
    async def story() -> None:
        upstream = await started(FakeEngine(checkpoint, out("h"), out("é"[:0]), out("é"), out(end=LENGTH)))

        got = await events(upstream, stream_options={"include_usage": True})
        assert [event["choices"][0]["delta"] for event in got[:-1]] == [
            {"role": "assistant", "content": ""}, {"content": "h"}, {"content": "é"}, {},
        ]  # fmt: skip
        assert [event["choices"][0]["finish_reason"] for event in got[:-1]] == [None, None, None, "length"]
        assert [event["usage"] for event in got[:-1]] == [None] * 4
        assert (got[-1]["choices"], got[-1]["usage"]["completion_tokens"]) == ([], 3)

    asyncio.run(story())


def test_each_piece_says_what_it_means_for_counts(checkpoint: Path) -> None:
    async def story() -> None:
        engine = FakeEngine(checkpoint, out("he", cached_tokens=3, queued_s=0.5), out("y", end=LENGTH, cached_tokens=3))
        got = await chunks(await started(engine))

        shown = [(c.tokens, c.finish_reason, c.prompt_tokens, c.cached_tokens, c.queued_s) for c in got]
        assert shown == [(2, None, 19, 3, 0.5), (1, "length", 0, 0, None), (0, None, 0, 0, None)]

    asyncio.run(story())


def test_completions_of_one_chat_are_kept_apart(checkpoint: Path) -> None:
    async def story() -> None:
        script = (
            out("a"),
            out("x", index=1),
            out("b", end=LENGTH),
            out("y", index=1, cached_tokens=16),
            out(index=1, end=STOP),
        )
        answer = await whole(await started(FakeEngine(checkpoint, *script)), n=2)
        streamed = await events(await started(FakeEngine(checkpoint, *script)), n=2)

        assert [(c["message"]["content"], c["finish_reason"]) for c in answer["choices"]] == [
            ("ab", "length"), ("xy", "stop"),
        ]  # fmt: skip
        # What a sibling shares with the first completion is no hit that the client had.
        assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
        by_index: dict[int, list[Any]] = {0: [], 1: []}
        for event in streamed:
            [choice] = event["choices"]
            by_index[choice["index"]].append(choice["delta"].get("content", choice["finish_reason"]))
        assert by_index == {0: ["", "a", "b", "length"], 1: ["", "x", "y", "stop"]}

    asyncio.run(story())


def test_a_stop_string_across_tokens_ends_the_text_and_the_work(checkpoint: Path) -> None:
    async def story() -> None:
        engine = FakeEngine(checkpoint, out("on"), out("e E"), out("ND more"), out("never sent"))
        got = await events(await started(engine), stop="END")

        text = "".join(event["choices"][0]["delta"].get("content", "") for event in got)
        assert text == "one "
        assert got[-1]["choices"][0]["finish_reason"] == "stop"
        assert engine.closed == 1

    asyncio.run(story())


def test_log_probabilities_come_with_bytes(checkpoint: Path) -> None:
    async def story() -> None:
        script = (
            out("a", logprobs=[logprob("a", -0.5, ("a", -0.5), ("b", -1.0))]),
            out("\xe9".encode()[:1], logprobs=[logprob("\xc3", float("-inf"))], end=LENGTH),
        )
        answer = await whole(await started(engine := FakeEngine(checkpoint, *script)), logprobs=True, top_logprobs=2)

        assert answer["choices"][0]["logprobs"] == {
            "content": [
                {
                    "token": "a", "logprob": -0.5, "bytes": [97],
                    "top_logprobs": [
                        {"token": "a", "logprob": -0.5, "bytes": [97]}, {"token": "b", "logprob": -1.0, "bytes": [98]},
                    ],
                },
                {"token": "\ufffd", "logprob": -9999.0, "bytes": [0xC3], "top_logprobs": []},
            ],
            "refusal": None,
        }  # fmt: skip
        assert engine.requests[0].params.logprobs == 2

    asyncio.run(story())


def test_tools_and_variables_reach_the_template(checkpoint: Path) -> None:
    async def story() -> None:
        engine = FakeEngine(checkpoint, out(end=STOP))
        upstream = await started(engine)
        tool = {"type": "function", "function": {"name": "look"}}

        await chunks(upstream, tools=[tool], chat_template_kwargs={"mood": "calm"})
        await chunks(upstream, tools=[tool], tool_choice="none", add_generation_prompt=False)
        assert [bytes(sent.prompt) for sent in engine.requests] == [
            b"<user>hi[1 tools][calm]<assistant>", b"<user>hi",
        ]  # fmt: skip

    asyncio.run(story())


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 10**6}, "n", "invalid_value"),
        ({"n": -(10**30)}, "n", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_completion_tokens": -5}, "max_completion_tokens", "invalid_value"),
        ({"max_tokens": 10**30}, "messages", "context_length_exceeded"),
        ({"temperature": -1}, "temperature", "invalid_value"),
        ({"temperature": 1e308}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"top_k": -2}, "top_k", "invalid_value"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"min_p": 1.1}, "min_p", "invalid_value"),
        ({"min_p": -0.1}, "min_p", "invalid_value"),
        ({"presence_penalty": 2.1}, "presence_penalty", "invalid_value"),
        ({"frequency_penalty": -2.1}, "frequency_penalty", "invalid_value"),
        ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
        ({"repetition_penalty": -1}, "repetition_penalty", "invalid_value"),
        ({"logit_bias": {"-1": 1}}, "logit_bias", "invalid_value"),
        ({"stop_token_ids": [-1]}, "stop_token_ids", "invalid_value"),
        ({"stop": ["a" * 1001]}, "stop", "invalid_value"),
        ({"guided_regex": "("}, "guided_regex", "invalid_value"),
        ({"guided_choice": []}, "guided_choice", "invalid_value"),
        ({"guided_grammar": " "}, "guided_grammar", "invalid_value"),
        ({"guided_json": "{"}, "guided_json", "invalid_value"),
        ({"structured_outputs": {}}, "structured_outputs", "invalid_value"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs.choice", "invalid_value"),
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex", "invalid_value"),
        ({"stop": [""]}, "stop", "invalid_value"),
        ({"stop": ["a"] * 17}, "stop", "invalid_value"),
        ({"logit_bias": {"260": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "invalid_value"),
        ({"stop_token_ids": [2**70]}, "stop_token_ids", "invalid_value"),
        ({"messages": [{"role": "user", "content": "x" * 100}]}, "messages", "context_length_exceeded"),
        ({"max_tokens": 82}, "messages", "context_length_exceeded"),
    ],
)
def test_what_the_engine_cannot_do_is_refused_by_the_clients_name(
    checkpoint: Path, fields: dict[str, Any], param: str, code: str
) -> None:
    async def story() -> None:
        error = await refusal(await started(engine := FakeEngine(checkpoint)), **fields)
        assert (error.status, error.param, error.code) == (400, param, code)
        assert engine.requests == []

    asyncio.run(story())


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidRequest("no", "prompt"), 400, "invalid_value"),
        (PromptTooLong("too long", "prompt"), 400, "context_length_exceeded"),
        (Overloaded("full", 3.0), 429, "rate_limit_exceeded"),
        (EngineDead("gone"), 503, "service_unavailable"),
        (RequestFailed("failed"), 500, "internal_error"),
    ],
)
def test_errors_of_the_engine_have_a_status_at_any_time(
    checkpoint: Path, error: Exception, status: int, code: str
) -> None:
    async def story() -> None:
        for script in ((error,), (out("a"), error)):
            told = await refusal(await started(FakeEngine(checkpoint, *script)))
            assert (told.status, told.code) == (status, code)
        assert told.retry_after_s == {429: 3.0, 503: 1.0}.get(status)

    asyncio.run(story())


def test_who_asks_a_dead_engine_is_told_when_it_is_back(checkpoint: Path) -> None:
    async def story() -> None:
        engine = FakeEngine(checkpoint, EngineDead("the engine is restarting"))
        upstream = await started(engine)
        assert (await refusal(upstream)).retry_after_s == 1.0
        engine.restart_in_s = 15.5
        assert (await refusal(upstream)).retry_after_s == 16.5

    asyncio.run(story())


def test_closing_an_answer_ends_its_computation(checkpoint: Path) -> None:
    async def story() -> None:
        engine = FakeEngine(checkpoint, out("a"), asyncio.Event())
        upstream = await started(engine)
        answer = upstream.answer(asking(request(stream=True), CALL), CALL)
        await anext(answer)
        await answer.aclose()
        waiting = asyncio.create_task(chunks(upstream))
        await engine.until_taken(2)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

        assert engine.closed == 2

    asyncio.run(story())


def test_a_model_without_a_chat_template_says_so(tmp_path: Path) -> None:
    async def story() -> None:
        error = await refusal(await started(FakeEngine(save_checkpoint(tmp_path, template=None))))
        assert (error.status, "no chat template" in error.message) == (400, True)

    asyncio.run(story())


def test_messages_that_the_template_refuses_are_a_400(tmp_path: Path) -> None:
    async def story() -> None:
        checkpoint = save_checkpoint(tmp_path, template="{{ raise_exception('roles must alternate') }}")
        error = await refusal(await started(FakeEngine(checkpoint)))
        assert (error.status, error.param, "roles must alternate" in error.message) == (400, "messages", True)

    asyncio.run(story())


def test_defaults_are_the_models_own_and_the_client_wins(tmp_path: Path) -> None:
    async def story() -> None:
        engine = FakeEngine(save_checkpoint(tmp_path, temperature=0.6, top_k=20, top_p=0.95), out(end=STOP))
        upstream = await started(engine)
        await chunks(upstream)
        await chunks(upstream, temperature=1, top_k=-1)

        first, second = (sent.params for sent in engine.requests)
        assert (first.temperature, first.top_k, first.top_p) == (0.6, 20, 0.95)
        assert (second.temperature, second.top_k, second.top_p) == (1.0, 0, 0.95)

    asyncio.run(story())


def test_a_model_made_for_greedy_decoding_is_greedy_by_default(tmp_path: Path) -> None:
    async def story() -> None:
        engine = FakeEngine(save_checkpoint(tmp_path, do_sample=False, temperature=0.6), out(end=STOP))
        await chunks(await started(engine))
        assert engine.requests[0].params.is_greedy

    asyncio.run(story())


@pytest.mark.parametrize(
    ("generation", "message"),
    [({"top_k": 20.5}, "Expected `int`, got `float`"), ({"temperature": -1}, "it must be between 0 and 100")],
)
def test_defaults_that_no_request_can_be_served_with_are_told_at_start(
    tmp_path: Path, generation: dict[str, float], message: str
) -> None:
    """A top_k with a decimal point could not be decoded by the engine process, and every request killed it."""

    async def story() -> None:
        await started(FakeEngine(save_checkpoint(tmp_path, **generation)))

    with pytest.raises(LoadError, match=rf"generation_config\.json: .*{message}"):
        asyncio.run(story())


def test_before_it_is_loaded_everything_is_a_503(checkpoint: Path) -> None:
    async def story() -> None:
        upstream = EmbeddedUpstream("m", FakeEngine(checkpoint))  # type: ignore[arg-type]
        assert upstream.health() == Health(False, "its engine is loading", 0.0)
        assert upstream.model().max_model_len is None
        assert (await refusal(upstream)).status == 503

    asyncio.run(story())


def test_health_is_the_engines(checkpoint: Path) -> None:
    async def story() -> None:
        engine = FakeEngine(checkpoint)
        upstream = await started(engine)
        assert upstream.health() == Health(True, "its engine is ready", 0.25)
        engine.age_s = 5.5
        assert upstream.health() == Health(False, "its engine gave no sign of life for 5.5 s", 5.5)
        engine.state = EngineState.RESTARTING
        assert upstream.health() == Health(False, "its engine is restarting", 0.0, is_alive=False)
        await upstream.stop()
        assert not upstream.health().is_ready

    asyncio.run(story())


@pytest.mark.parametrize(
    ("waiting", "tokens", "is_ready"), [(511, 999_999, True), (512, 0, False), (0, 1_000_000, False)]
)
def test_a_full_queue_takes_no_more_traffic(checkpoint: Path, waiting: int, tokens: int, is_ready: bool) -> None:
    async def story() -> None:
        engine = FakeEngine(checkpoint)
        upstream = await started(engine)
        scheduler = SchedulerStats(
            running=64, waiting=waiting, waiting_requests=waiting, waiting_tokens=tokens, num_blocks=8, free_blocks=0,
            held_blocks=8, cached_blocks=0,
        )  # fmt: skip
        engine.stats = EngineStats(scheduler=scheduler)

        assert upstream.health() == Health(is_ready, "its engine is ready" if is_ready else "its queue is full", 0.25)

    asyncio.run(story())


def test_a_missing_tokenizer_is_a_load_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"tokenizer\.json"):
        asyncio.run(started(FakeEngine(tmp_path)))


def test_long_lists_of_tokens_are_turned_into_text_beside_the_event_loop(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body of 4 MiB has two million tokens: decoded on the loop, all other answers stood still for a second."""
    threads: list[bool] = []
    decode = Tokenizer.decode

    def noting_the_thread(self: Tokenizer, token_ids: list[int], **options: bool) -> str:
        threads.append(threading.current_thread() is threading.main_thread())
        return decode(self, token_ids, **options)

    monkeypatch.setattr(Tokenizer, "decode", noting_the_thread)

    async def story() -> None:
        upstream = await started(FakeEngine(checkpoint))
        for count in (3, 3000):
            body = json.dumps({"tokens": [97] * count}).encode()
            assert json.loads(await upstream.detokenize(decode_detokenize(body))) == {"prompt": "a" * count}
        asked = decode_tokenize(json.dumps({"prompt": "a" * 3000, "return_token_strs": True}).encode())
        assert json.loads(await upstream.tokenize(asked))["token_strs"] == ["a"] * 3000

    asyncio.run(story())
    assert threads == [True, False]


def test_texts_and_chats_are_tokenized_and_back(checkpoint: Path) -> None:
    async def story() -> None:
        upstream = await started(FakeEngine(checkpoint))
        text = await upstream.tokenize(decode_tokenize(b'{"prompt": "a<end>", "return_token_strs": true}'))
        chat = await upstream.tokenize(
            decode_tokenize(b'{"messages": [{"role": "user", "content": "a"}], "add_generation_prompt": false}')
        )
        back = await upstream.detokenize(decode_detokenize(json.dumps({"tokens": [97, END]}).encode()))

        assert json.loads(text) == {
            "count": 2, "max_model_len": 100, "tokens": [97, END], "token_strs": ["a", "<end>"],
        }  # fmt: skip
        assert bytes(json.loads(chat)["tokens"]) == b"<user>a"
        assert json.loads(back) == {"prompt": "a<end>"}
        for tokens in ([260], [-1], [2**70]):
            with pytest.raises(ApiError, match="token id"):
                await upstream.detokenize(decode_detokenize(json.dumps({"tokens": tokens}).encode()))

    asyncio.run(story())
