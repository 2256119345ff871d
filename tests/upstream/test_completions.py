import asyncio
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from servery.engine.errors import Overloaded
from servery.engine.request import FinishReason
from servery.upstream.embedded import EmbeddedUpstream
from servery.upstream.upstream import Call, Chunk
from servery.wire.completions import decode_completion
from servery.wire.errors import ApiError
from tests.upstream.fake_engine import END, FakeEngine, asking, logprob, out, save_checkpoint, started

CALL = Call(id="cmpl-1")
STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path)


async def chunks(upstream: EmbeddedUpstream, prompt: Any, **fields: Any) -> list[Chunk]:
    request = decode_completion(json.dumps({"model": "m", "prompt": prompt, **fields}).encode())
    return [chunk async for chunk in upstream.answer(asking(request, CALL), CALL)]


async def choices(upstream: EmbeddedUpstream, prompt: Any, **fields: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((await chunks(upstream, prompt, **fields))[-1].data)["choices"]
    return found


async def events(upstream: EmbeddedUpstream, prompt: Any, **fields: Any) -> list[dict[str, Any]]:
    data = b"".join(chunk.data for chunk in await chunks(upstream, prompt, stream=True, **fields)).decode()
    return [json.loads(line[6:]) for line in data.splitlines() if line]


def columns(pieces: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    """The log probabilities of all pieces of a choice, joined."""
    parts = [piece["logprobs"] for piece in pieces if piece["logprobs"] is not None]
    return {name: [entry for part in parts for entry in part[name]] for name in parts[0]}


@pytest.mark.parametrize("prompt", ["ab", [97, 98], ["ab"], [[97, 98]]])
def test_text_and_token_ids_are_the_same_prompt(checkpoint: Path, prompt: Any) -> None:
    async def story() -> None:
        engine = FakeEngine(checkpoint, out("c", end=STOP))
        [choice] = await choices(await started(engine), prompt)

        assert choice == {"index": 0, "text": "c", "logprobs": None, "finish_reason": "stop"}
        assert engine.requests[0].prompt == [97, 98]
        assert engine.requests[0].params.max_tokens == 16

    asyncio.run(story())


def test_the_default_limit_gives_way_to_a_long_prompt(checkpoint: Path) -> None:
    async def story() -> None:
        engine = FakeEngine(checkpoint, out("c", end=LENGTH))
        await chunks(await started(engine), "x" * 95)
        assert engine.requests[0].params.max_tokens == 5

    asyncio.run(story())


def test_several_prompts_are_computed_together_and_numbered_in_order(checkpoint: Path) -> None:
    async def story() -> None:
        engine, gate = FakeEngine(checkpoint), asyncio.Event()
        engine.scripts = {
            b"a": (gate, out("1", cached_tokens=1), out("2", index=1, end=LENGTH), out(end=LENGTH)),
            b"bb": (out("3", index=1, end=LENGTH), out("4", end=LENGTH)),
        }
        upstream = await started(engine)
        request = decode_completion(b'{"model": "m", "prompt": ["a", "bb"], "n": 2}')
        body = b""
        async for chunk in upstream.answer(asking(request, CALL), CALL):
            if chunk.index >= 2:
                gate.set()  # the second prompt's answer comes although the first waits
            body += chunk.data
        answer = json.loads(body)

        assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [
            (0, "1"), (1, "2"), (2, "4"), (3, "3"),
        ]  # fmt: skip
        assert answer["usage"] == {
            "prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 0},
        }  # fmt: skip
        assert {sent.request_id for sent in engine.requests} == {"cmpl-1-0", "cmpl-1-1"}

    asyncio.run(story())


def test_one_prompt_that_is_refused_ends_them_all(checkpoint: Path) -> None:
    async def story() -> None:
        engine = FakeEngine(checkpoint)
        engine.scripts = {b"a": (asyncio.Event(),), b"b": (Overloaded("full", 2.0),)}
        with pytest.raises(ApiError) as caught:
            await chunks(await started(engine), ["a", "b"])

        assert caught.value.status == 429
        assert engine.closed == 2

    asyncio.run(story())


def test_log_probabilities_are_columns_with_offsets(checkpoint: Path) -> None:
    async def story() -> None:
        script = (
            out("x", logprobs=[logprob("x", -0.5, ("x", -0.5), ("y", -1.0))]),
            out("y", logprobs=[logprob("y", -2.0, ("x", -0.25))], end=LENGTH),
        )
        expected = {
            "tokens": ["x", "y"],
            "token_logprobs": [-0.5, -2.0],
            "top_logprobs": [{"x": -0.5, "y": -1.0}, {"x": -0.25, "y": -2.0}],
            "text_offset": [0, 1],
        }
        [choice] = await choices(await started(FakeEngine(checkpoint, *script)), "ab", logprobs=1)
        streamed = await events(await started(FakeEngine(checkpoint, *script)), "ab", logprobs=1)

        assert choice["logprobs"] == expected
        assert columns(event["choices"][0] for event in streamed) == expected

    asyncio.run(story())


@pytest.mark.parametrize("stream", [False, True])
def test_an_echoed_prompt_comes_first_with_its_log_probabilities(checkpoint: Path, stream: bool) -> None:
    async def story() -> None:
        script = (
            out("x", logprobs=[logprob("x", -0.5)], prompt_logprobs=[None, logprob("b", -3.0, ("c", -1.0))]),
            out("y", logprobs=[logprob("y", -1.5)], end=LENGTH),
        )
        engine = FakeEngine(checkpoint, *script)
        upstream = await started(engine)
        if stream:
            got = [event["choices"][0] for event in await events(upstream, [97, 98], echo=True, logprobs=1)]
            text = "".join(choice["text"] for choice in got)
        else:
            got = await choices(upstream, [97, 98], echo=True, logprobs=1)
            text = got[0]["text"]

        assert text == "abxy"
        assert columns(got) == {
            "tokens": ["a", "b", "x", "y"],
            "token_logprobs": [None, -3.0, -0.5, -1.5],
            "top_logprobs": [None, {"c": -1.0, "b": -3.0}, {"x": -0.5}, {"y": -1.5}],
            "text_offset": [0, 1, 2, 3],
        }
        assert engine.requests[0].params.prompt_logprobs == 1

    asyncio.run(story())


def test_with_max_tokens_zero_a_prompt_is_only_scored(checkpoint: Path) -> None:
    async def story() -> None:
        script = (out("x", logprobs=[logprob("x", -0.5)], prompt_logprobs=[None, logprob("b", -3.0)], end=LENGTH),)
        engine = FakeEngine(checkpoint, *script)
        got = await chunks(await started(engine), "ab", echo=True, logprobs=0, max_tokens=0)
        answer = json.loads(got[-1].data)

        assert answer["choices"][0]["text"] == "ab"
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["choices"][0]["logprobs"]["token_logprobs"] == [None, -3.0]
        assert answer["usage"]["completion_tokens"] == 0
        assert engine.requests[0].params.max_tokens == 1

    asyncio.run(story())


@pytest.mark.parametrize(
    ("prompt", "fields", "param", "code"),
    [
        ("a", {"max_tokens": 0}, "max_tokens", "invalid_value"),
        ("a", {"max_tokens": 100}, "prompt", "context_length_exceeded"),
        ("a" * 100, {}, "prompt", "context_length_exceeded"),
        (["a", "a" * 100], {}, "prompt[1]", "context_length_exceeded"),
        ([260], {}, "prompt", "invalid_value"),
        ([-1], {}, "prompt", "invalid_value"),
        ([2**70], {}, "prompt", "invalid_value"),
        ("a", {"logprobs": 21}, "logprobs", "invalid_value"),
    ],
)
def test_what_cannot_be_completed_is_refused(
    checkpoint: Path, prompt: Any, fields: dict[str, Any], param: str, code: str
) -> None:
    async def story() -> None:
        with pytest.raises(ApiError) as caught:
            await chunks(await started(FakeEngine(checkpoint)), prompt, **fields)
        assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)

    asyncio.run(story())


def test_the_end_token_is_counted_and_not_shown(checkpoint: Path) -> None:
    async def story() -> None:
        got = await chunks(await started(FakeEngine(checkpoint, out("c", end=STOP))), [97, END])
        answer = json.loads(got[-1].data)
        assert (answer["choices"][0]["text"], answer["usage"]["completion_tokens"]) == ("c", 2)

    asyncio.run(story())


@pytest.mark.parametrize(("places", "sent"), [(2, 2), (512, 16)])
def test_only_so_many_prompts_are_with_the_engine_at_a_time(checkpoint: Path, places: int, sent: int) -> None:
    """Sent all at once, they were refused by a queue with fewer places however idle the server, or filled a larger one."""

    async def story() -> None:
        gate = asyncio.Event()
        engine = FakeEngine(checkpoint, gate, out("x", end=STOP))
        engine.config = dataclasses.replace(engine.config, max_waiting_requests=places)
        waiting = asyncio.create_task(choices(await started(engine), ["a"] * 20))
        await engine.until_taken(sent)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(engine.requests) == sent
        gate.set()
        assert [choice["text"] for choice in await waiting] == ["x"] * 20

    asyncio.run(story())


def test_debug_tells_what_speculation_did(checkpoint: Path) -> None:
    async def story() -> None:
        script = (out("ab", num_drafts=4), out("c"), out("d", num_drafts=2, end=STOP))
        whole = json.loads((await chunks(await started(FakeEngine(checkpoint, *script)), "a", debug=True))[-1].data)
        told = {"speculation": {"drafted_tokens": 6, "accepted_tokens": 2, "windows": {"0": 1, "2": 1, "4": 1}}}
        assert whole["usage"]["servery"] == told

        options = {"stream_options": {"include_usage": True}}
        last = (await events(await started(FakeEngine(checkpoint, *script)), "a", debug=True, **options))[-1]
        assert last["usage"]["servery"] == told
        plain = json.loads((await chunks(await started(FakeEngine(checkpoint, *script)), "a"))[-1].data)
        assert "servery" not in plain["usage"]

    asyncio.run(story())


def test_what_vllm_adds_reaches_the_engine_and_the_answer(checkpoint: Path) -> None:
    async def story() -> None:
        engine = FakeEngine(checkpoint, out(chr(97), end=STOP))
        fields = {"min_tokens": 1, "include_stop_str_in_output": True, "cache_salt": "s", "stop": "a"}
        [choice] = await choices(await started(engine), "ab", **fields)

        [request] = engine.requests
        assert choice["text"] == "a"
        assert (request.params.min_tokens, request.params.include_stop_str_in_output) == (1, True)
        assert request.cache_salt == b"s"

    asyncio.run(story())
