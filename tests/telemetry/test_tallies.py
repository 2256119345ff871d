import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Counter as TheirCounter
from prometheus_client import Histogram as TheirHistogram

from servery.telemetry.tallies import Counter, Histogram

_BOUNDS = (0.5, 1, 2.5, 1_000)


def _told(registry: CollectorRegistry) -> list[str]:
    """What Prometheus reads, without the times at which the library's own came to be."""
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


@given(st.lists(st.tuples(st.sampled_from(["a", 'b\n"x']), st.floats(0, 2_000)), max_size=30))
def test_they_tell_what_the_librarys_own_would(steps: list[tuple[str, float]]) -> None:
    mine, theirs = CollectorRegistry(), CollectorRegistry()
    counters = (
        Counter("moved", "What moved.", ("who",), mine), TheirCounter("moved", "What moved.", ("who",), registry=theirs)
    )  # fmt: skip
    histograms = (
        Histogram("size", "How far.", ("who",), _BOUNDS, mine),
        TheirHistogram("size", "How far.", ("who",), buckets=_BOUNDS, registry=theirs),
    )
    for who, value in steps:
        for counter in counters:
            counter.labels(who).inc(value)
        for histogram in histograms:
            histogram.labels(who).observe(value)
    assert _told(mine) == _told(theirs)


def test_a_counter_does_not_go_down_and_knows_its_labels() -> None:
    counter = Counter("moved", "What moved.", ("who",), CollectorRegistry())
    with pytest.raises(ValueError, match="cannot go down by 1"):
        counter.labels("a").inc(-1)
    with pytest.raises(ValueError, match="moved has the labels who"):
        counter.labels("a", "b")
