"""An SLO is read as written, and a request misses it for the reasons there are."""

import pytest

from servery.bench.sample import Sample
from servery.bench.slo import PRESETS, BenchSlo, parse_attainment

SLO = BenchSlo.parse("ttft:200ms,tpot:50ms,e2e:1s,stall:300ms", 0.95)


def sample(*arrivals: float, due: float = 0.0, **values: object) -> Sample:
    made = Sample(0.5, list(arrivals), arrivals[-1] if arrivals else None, due=due)
    for name, value in values.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("of", "why"),
    [
        (sample(0.15, 0.19, 0.2), ()),
        (sample(0.21, 0.22), ("ttft",)),
        (sample(0.1, 0.16), ("tpot",)),
        (sample(0.1, 0.41, 0.42, 0.43, 0.44, 0.45, 0.46, 0.47, 0.48, 0.49), ("stall",)),
        (sample(0.3, 0.7, 1.1), ("ttft", "tpot", "e2e", "stall")),
        (sample(0.1, error_kind="timeout"), ("error",)),
        (sample(0.19), ()),
        (sample(0.7, due=0.55), ()),
        (sample(ended=0.19), ()),
        (sample(ended=1.1), ("ttft", "e2e")),
    ],
)
def test_a_request_misses_by_every_limit_it_broke(of: Sample, why: tuple[str, ...]) -> None:
    """The limits count from when the request was due; one token alone has no TPOT; an error is a miss by itself.

    An answer without text shows its user nothing before it ends.
    """
    assert SLO.misses(of) == why


def test_presets_have_their_published_limits_and_may_be_held_for_another_share() -> None:
    assert BenchSlo.parse("mlperf-llama3.1-8b-interactive").limits == {"ttft": 0.5, "tpot": 0.03}
    assert BenchSlo.parse("chat", 0.9).attainment == 0.9
    assert all(preset.attainment == 0.99 for preset in PRESETS.values())


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("ttfb:2s", "ttft:200ms"),
        ("ttft:200", "'ttft:200': '200' is not a time with its unit"),
        ("", "presets"),
        ("ttft", "unit"),
        ("ttft:1s,", "presets"),
        ("ttft:-1s", "unit"),
        ("ttft:nanms", "unit"),
        ("ttft:0ms", "more than 0"),
        ("ttft:1s,ttft:2s", "the same figure twice"),
    ],
)
def test_what_is_no_slo_is_refused_with_what_is(text: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        BenchSlo.parse(text)


@pytest.mark.parametrize("text", ["100%", "0", "1.0", "two"])
def test_a_share_that_nothing_can_show_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="share"):
        parse_attainment(text)
    assert parse_attainment("99%") == 0.99
