import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from servery.engine.request import FinishReason
from servery.upstream.embedded import EmbeddedUpstream
from servery.upstream.upstream import Call
from servery.wire.embeddings import decode_embedding
from servery.wire.errors import ApiError
from tests.upstream.fake_engine import FakeEngine, asking, out, save_checkpoint, started

CALL = Call(id="embd-1")
STOP = FinishReason.STOP


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path)


async def embed(upstream: EmbeddedUpstream, text: Any, **fields: Any) -> dict[str, Any]:
    request = decode_embedding(json.dumps({"model": "m", "input": text, **fields}).encode())
    data = b"".join([chunk.data async for chunk in upstream.answer(asking(request, CALL), CALL)])
    answer: dict[str, Any] = json.loads(data)
    return answer


def test_each_input_gets_a_vector_of_length_one_in_its_place(checkpoint: Path) -> None:
    async def story() -> None:
        engine = FakeEngine(checkpoint)
        texts = [f"{at:02}" for at in range(40)]
        for at, text in enumerate(texts):
            engine.scripts[text.encode()] = (out(embedding=[3.0, 0.0, 4.0, at], end=FinishReason.LENGTH),)
        answer = await embed(await started(engine), texts, dimensions=3)

        assert [item["index"] for item in answer["data"]] == list(range(40))
        assert all(item["embedding"] == [0.6, 0.0, 0.8] for item in answer["data"])
        assert answer["usage"] == {"prompt_tokens": 80, "total_tokens": 80}
        assert all(sent.pooling for sent in engine.requests)

    asyncio.run(story())


def test_only_so_many_inputs_are_with_the_engine_at_a_time(checkpoint: Path) -> None:
    async def story() -> None:
        gate = asyncio.Event()
        engine = FakeEngine(checkpoint, gate, out(embedding=[1.0, 0.0, 0.0, 0.0], end=FinishReason.LENGTH))
        waiting = asyncio.create_task(embed(await started(engine), ["a"] * 40))
        await engine.until_taken(16)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(engine.requests) == 16
        gate.set()
        await waiting

        assert len(engine.requests) == 40

    asyncio.run(story())


@pytest.mark.parametrize(
    ("text", "fields", "param", "code"),
    [
        ("a" * 101, {}, "input", "context_length_exceeded"),
        (["a", "a" * 101], {}, "input[1]", "context_length_exceeded"),
        ([260], {}, "input", "invalid_value"),
        ("a", {"dimensions": 5}, "dimensions", "invalid_value"),
    ],
)
def test_what_cannot_be_embedded_is_refused(
    checkpoint: Path, text: Any, fields: dict[str, Any], param: str, code: str
) -> None:
    async def story() -> None:
        with pytest.raises(ApiError) as caught:
            await embed(await started(FakeEngine(checkpoint)), text, **fields)
        assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)

    asyncio.run(story())
