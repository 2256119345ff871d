"""The engine's counters are read from its metrics, and MBU is bytes over time over bandwidth."""

import pytest

from servery.bench.bandwidth import Bandwidth
from servery.bench.engine_meter import Counters, EngineWork, read_counters, work_between
from servery.engine.scheduler_stats import SchedulerStats
from servery.engine.stats import EngineStats
from servery.telemetry.metrics import Metrics

BEFORE = Counters(10, 1.0, 100, 1e9, 50, 20, 1)
AFTER = Counters(30, 3.0, 500, 5e9, 150, 70, 4)
SCHEDULER = SchedulerStats(
    running=0,
    waiting=0,
    waiting_requests=0,
    waiting_tokens=0,
    num_blocks=8,
    free_blocks=8,
    held_blocks=0,
    cached_blocks=0,
    prefix_query_tokens=50,
    prefix_hit_tokens=20,
    preemptions=1,
)


def test_the_counters_are_those_that_the_server_tells() -> None:
    metrics = Metrics()
    stats = EngineStats(scheduler=SCHEDULER, steps=10, step_s=1.5, step_tokens=100, read_bytes=10**9)
    metrics.watch_engine("amuse", lambda: stats)
    page = metrics.render().decode()
    assert read_counters(page, "amuse") == Counters(10, 1.5, 100, 1e9, 50, 20, 1)
    assert read_counters(page, "another") is None


@pytest.mark.parametrize("page", ["", "<html>hello</html>", "vllm:num_requests_running 3\n"])
def test_another_servers_page_has_no_counters(page: str) -> None:
    assert read_counters(page, "amuse") is None


def test_the_work_of_a_run_is_the_difference_of_its_ends() -> None:
    assert work_between(BEFORE, AFTER, Bandwidth(8e9, 7e9, 2, 1 << 30, 9)) == EngineWork(
        steps=20,
        step_ms=100.0,
        tokens_per_step=20.0,
        read_bytes_per_step=2e8,
        achieved_bytes_per_s=2e9,
        mbu=0.25,
        prefix_hit_share=0.5,
        preemptions=3,
    )


def test_without_a_bandwidth_there_is_no_mbu() -> None:
    work = work_between(BEFORE, AFTER, None)
    assert work is not None
    assert (work.achieved_bytes_per_s, work.mbu) == (2e9, None)


@pytest.mark.parametrize("after", [BEFORE, Counters(3, 0.1, 5, 1e6, 0, 0, 0)])
def test_an_engine_that_stood_still_or_was_restarted_has_no_work(after: Counters) -> None:
    assert work_between(BEFORE, after, None) is None
