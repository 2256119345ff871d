"""Documents ranked by the embedded upstream."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from servery.engine.request import FinishReason
from servery.upstream.embedded import EmbeddedUpstream
from servery.upstream.upstream import Call
from servery.wire.errors import ApiError
from servery.wire.rerank import decode_rerank
from tests.upstream.fake_engine import FakeEngine, asking, out, save_checkpoint, started

CALL = Call(id="rerank-1")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path)


async def rank(upstream: EmbeddedUpstream, **fields: Any) -> dict[str, Any]:
    request = decode_rerank(json.dumps({"model": "m", **fields}).encode())
    data = b"".join([chunk.data async for chunk in upstream.answer(asking(request, CALL), CALL)])
    answer: dict[str, Any] = json.loads(data)
    return answer


def test_documents_are_sorted_by_their_cosine_with_the_query(checkpoint: Path) -> None:
    async def story() -> None:
        engine = FakeEngine(checkpoint)
        for text, vector in {"q": [2.0, 0.0], "far": [0.0, 3.0], "near": [3.0, 4.0], "same": [5.0, 0.0]}.items():
            engine.scripts[text.encode()] = (out(embedding=vector, end=FinishReason.LENGTH),)
        answer = await rank(await started(engine), query="q", documents=["far", {"text": "near"}, "same"], top_n=2)

        assert [(one["index"], one["relevance_score"]) for one in answer["results"]] == [(2, 1.0), (1, 0.6)]
        assert answer["usage"]["total_tokens"] == len("q" + "far" + "near" + "same")

    asyncio.run(story())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"query": "a" * 101, "documents": ["a"]}, "query"),
        ({"query": "a", "documents": ["a", "a" * 101]}, "documents[1]"),
    ],
)
def test_a_text_longer_than_the_context_is_refused(checkpoint: Path, fields: dict[str, Any], param: str) -> None:
    async def story() -> None:
        engine = FakeEngine(checkpoint)
        with pytest.raises(ApiError) as caught:
            await rank(await started(engine), **fields)
        assert (caught.value.param, caught.value.code) == (param, "context_length_exceeded")
        assert engine.requests == []

    asyncio.run(story())
