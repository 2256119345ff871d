"""The soak of the dashboard tells a page that grows from one that does not."""

import pytest

from benchmarks.dashboard_soak import Weight, verdict


def weights(*, heap: int = 0, nodes: int = 0, listeners: int = 0) -> list[Weight]:
    """Twenty minutes in which these grow by so much each quarter of one, and the heap wavers besides."""
    return [
        Weight(15.0 * at, 3_000_000 + heap * at + 20_000 * (at % 3), 2_000 + nodes * at, 50 + listeners * at, 90 << 20)
        for at in range(80)
    ]


def test_a_page_that_stays_as_it_is_has_no_fault() -> None:
    told = verdict(weights(), [])
    assert told["faults"] == []
    assert told["nodes"] == [2_000, 2_000]
    assert told["heap_bytes_per_hour"][1] <= 0 <= told["heap_bytes_per_hour"][2]


@pytest.mark.parametrize(
    ("growth", "fault"),
    [
        ({"heap": 10_000}, "the page's heap grows by at least"),
        ({"nodes": 1}, "the page's nodes grow: 2040 to 2079"),
        ({"listeners": 1}, "the page's listeners grow: 90 to 129"),
    ],
)
def test_what_grows_is_named(growth: dict[str, int], fault: str) -> None:
    [found] = verdict(weights(**growth), [])["faults"]
    assert found.startswith(fault)


def test_what_the_console_said_is_a_fault_and_a_short_look_is_no_soak() -> None:
    assert verdict(weights(), ["oops"])["faults"] == ["oops"]
    with pytest.raises(ValueError, match=r"5 weights say nothing of a slope; let it run for at least 1\.5 minutes"):
        verdict(weights()[:5], [])
