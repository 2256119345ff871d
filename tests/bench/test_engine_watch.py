"""What an engine says of itself is read from this server's metrics and from vLLM's, and split where it was spent."""

import asyncio
from typing import Any

import pytest

from servery.bench import engine_watch
from servery.bench.address import Address
from servery.bench.client import Client
from servery.bench.engine_watch import FirstTokens, Moment, first_tokens, moment, readings, since, watched
from servery.engine.scheduler_stats import SchedulerStats
from servery.engine.stats import EngineStats
from servery.telemetry.metrics import Metrics
from tests.scripted_server import CUT, head, scripted

VLLM = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
vllm:num_preemptions_total{engine="0",model_name="m"} 7.0
vllm:num_preemptions_total{engine="0",model_name="other"} 70.0
vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="m"} 0.0
"""


KV = 'vllm:kv_cache_usage_perc{model_name="m"} '


def histogram(name: str, count: int, total_s: float) -> str:
    labels = '{model_name="m"}'
    return f"servery_{name}_seconds_count{labels} {count}\nservery_{name}_seconds_sum{labels} {total_s}\n"


def test_this_servers_own_metrics_are_read() -> None:
    metrics = Metrics()
    scheduler = SchedulerStats(
        running=4, waiting=2, waiting_requests=2, waiting_tokens=9, num_blocks=8, free_blocks=2, held_blocks=6,
        cached_blocks=0, prefix_query_tokens=0, prefix_hit_tokens=0, preemptions=5,
    )  # fmt: skip
    metrics.watch_engine("amuse", lambda: EngineStats(scheduler=scheduler))
    page = metrics.render().decode()
    found = readings(page, "amuse")
    assert moment(found, {"num_preemptions_total": [3.0]}, 1.5) == Moment(1.5, 4, 2, 0.75, 2)
    assert moment(readings(page, "another"), {}, 1.5) is None


def test_engines_of_one_model_are_taken_together() -> None:
    assert moment(readings(VLLM, "m"), {}, 0.0) == Moment(0.0, 5, 1, 0.5, 7)


@pytest.mark.parametrize("page", ["", "<html>hello</html>", KV + "much\n", KV + "NaN\n"])
def test_another_page_tells_nothing(page: str) -> None:
    assert moment(readings(page, "m"), {}, 0.0) is None


def test_the_time_to_first_tokens_is_split_where_it_was_spent() -> None:
    """Between the readings 10 requests waited 0.1 s and had their first token after 0.5 s in all; clients saw 60 ms."""
    before, after = (
        readings(
            histogram("request_queue_time", count, 0.01 * count) + histogram("time_to_first_token", count, ttft), "m"
        )
        for count, ttft in ((5, 1.0), (15, 1.5))
    )
    found = first_tokens(before, after, 60.0)
    assert found is not None
    assert (found.queue_ms, found.prefill_ms, found.way_ms) == pytest.approx((10.0, 40.0, 10.0))
    assert first_tokens(before, before, 60.0) is None
    assert first_tokens({}, after, None) is None
    assert first_tokens(before, after, 45.0) == FirstTokens(found.queue_ms, found.prefill_ms, 0.0)


def test_it_looks_while_the_run_lasts_and_takes_no_offence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_watch, "PAUSE_S", 0.0)
    body = VLLM.encode()
    page: list[Any] = [head(200, "text/plain", content_length=str(len(body))) + body]

    async def run() -> None:
        async with scripted({"/metrics": [page, page, [CUT]]}) as server:
            client = Client(Address.parse(server.url))
            async with watched(client, "m", readings(VLLM, "m")) as seen, asyncio.timeout(60):
                while len(server.asked) < 3:  # noqa: ASYNC110 - what is waited for is in another object's list
                    await asyncio.sleep(0)
            assert since(seen, seen[0].at_s)[0] == Moment(0.0, 5, 1, 0.5, 0)
            assert len(seen) == 2
            async with watched(client, "m", {}) as nothing:
                await asyncio.sleep(0)
            assert nothing == []
            client.close()

    asyncio.run(run())
