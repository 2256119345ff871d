"""TGI's answers, from an engine that plays a script."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from servery.engine.request import FinishReason, Output
from servery.upstream.ask import Api, Ask, Head
from servery.upstream.upstream import Call
from tests.upstream.fake_engine import END, FakeEngine, logprob, out, save_checkpoint, started

STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path)


async def answer(engine: FakeEngine, *, stream: bool = False, as_list: bool = False, **parameters: Any) -> bytes:
    body = json.dumps({"inputs": "ab", "parameters": parameters}).encode()
    ask = Ask(
        api=Api.GENERATE, body=body, head=Head(model="m", stream=stream), model="m", base="m", answer_id="gen-1",
        created=5, as_list=as_list,
    )  # fmt: skip
    upstream = await started(engine)
    return b"".join([chunk.data async for chunk in upstream.answer(ask, Call(id="gen-1"))])


def scored(text: str, *, end: FinishReason | None = None) -> Output:
    return out(text, end=end, logprobs=[logprob(char, -0.5, (char, -0.5)) for char in text])


def token(char: str) -> dict[str, Any]:
    return {"id": ord(char), "text": char, "logprob": -0.5, "special": False}


def test_a_stream_has_one_event_per_token_and_the_text_with_the_last(checkpoint: Path) -> None:
    async def story() -> None:
        engine = FakeEngine(checkpoint, scored("xy"), scored("z", end=LENGTH))
        data = await answer(engine, stream=True, details=True, seed=7)

        events = [json.loads(event.removeprefix(b"data: ")) for event in data.strip().split(b"\n\n")]
        details = {"finish_reason": "length", "generated_tokens": 3, "seed": 7, "input_length": 2}
        rest = {"generated_text": None, "details": None}
        assert events == [
            {"index": 1, "token": token("x"), **rest},
            {"index": 2, "token": token("y"), **rest},
            {"index": 3, "token": token("z"), "generated_text": "xyz", "details": details},
        ]
        assert (engine.requests[0].params.logprobs, engine.requests[0].params.max_tokens) == (0, 98)

    asyncio.run(story())


def test_a_whole_answer_tells_of_prompt_and_tokens_and_what_might_have_been(checkpoint: Path) -> None:
    async def story() -> None:
        first = scored("x")
        first.prompt_logprobs = [None, logprob("b", -1.0)]
        last = out("", end=STOP, logprobs=[logprob(chr(END), -0.1, (chr(END), -0.1))])
        asked = {"details": True, "decoder_input_details": True, "top_n_tokens": 1, "return_full_text": True}
        [told] = json.loads(await answer(FakeEngine(checkpoint, first, last), as_list=True, **asked))

        end = {"id": END, "text": "<end>", "logprob": -0.1, "special": True}
        assert told == {
            "generated_text": "abx",
            "details": {
                "finish_reason": "eos_token", "generated_tokens": 2, "seed": None, "tokens": [token("x"), end],
                "top_tokens": [[token("x")], [end]],
                "prefill": [{"id": 97, "text": "a", "logprob": None}, {"id": 98, "text": "b", "logprob": -1.0}],
            },
        }  # fmt: skip

    asyncio.run(story())


def test_a_stop_sequence_is_the_end_of_the_text(checkpoint: Path) -> None:
    async def story() -> None:
        told = json.loads(await answer(FakeEngine(checkpoint, scored("xyz")), stop=["y"], details=True))

        assert told["generated_text"] == "xy"
        assert told["details"]["finish_reason"] == "stop_sequence"
        assert [each["text"] for each in told["details"]["tokens"]] == ["x", "y"]

    asyncio.run(story())


def test_without_details_only_the_text_is_told(checkpoint: Path) -> None:
    async def story() -> None:
        engine = FakeEngine(checkpoint, out("x", end=STOP))
        assert json.loads(await answer(engine, max_new_tokens=3)) == {"generated_text": "x"}
        assert (engine.requests[0].params.logprobs, engine.requests[0].params.max_tokens) == (None, 3)

    asyncio.run(story())
