"""The benchmark of the batch lane compares each request with its like, and counts nobody who got no answer."""

import asyncio
import json
from typing import Any

import pytest

from benchmarks import batch_lane
from benchmarks.batch_lane import Lane, percentiles, ratio
from servery.bench.sample import Sample

PROMPT = [{"role": "user", "content": "hi"}]


def test_each_request_is_compared_with_the_one_in_its_place() -> None:
    alone, beside = [[0.01, 0.10, 0.02], [0.01, 0.10, 0.02]], [[0.02, 0.10, 0.02], [0.01, 0.10, 0.04]]
    assert ratio(alone, beside) == {"median": 1.0, "low": 1.0, "high": 2.0}


def test_percentiles_are_in_milliseconds() -> None:
    assert percentiles([0.001 * n for n in range(100)]) == pytest.approx({"p50": 50.0, "p95": 95.0, "p99": 99.0})


@pytest.mark.parametrize("error", [None, "the server failed"])
def test_a_block_has_a_time_for_every_chat(error: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(client: Any, request: dict[str, Any]) -> Sample:
        assert (request["messages"], request["max_tokens"]) == (PROMPT, 7)
        return Sample(sent=1.0, arrivals=[] if error else [1.25], error=error)

    monkeypatch.setattr(batch_lane, "ask", ask)
    lane = Lane("http://127.0.0.1:1", "m", output_tokens=7)
    if error is None:
        assert asyncio.run(lane.block([0.0, 0.0], [PROMPT, PROMPT])) == [0.25, 0.25]
    else:
        with pytest.raises(SystemExit, match="a chat got no answer: the server failed"):
            asyncio.run(lane.block([0.0], [PROMPT]))
    lane.close()


def test_no_two_lines_of_a_batch_begin_alike() -> None:
    said = [json.loads(batch_lane._line(number, "m", PROMPT))["body"]["messages"][0]["content"] for number in (1, 2)]
    assert said == ["1. hi", "2. hi"]
