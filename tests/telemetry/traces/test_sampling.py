"""Which traces are recorded, compared with OpenTelemetry's own samplers."""

import random

import pytest
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

from servery.telemetry.traces.context import Parent
from servery.telemetry.traces.sampling import Sampling, sampling_of


@pytest.mark.parametrize("share", [0.0, 1e-9, 0.1, 1 / 3, 0.999, 1.0])
def test_the_same_traces_are_taken_as_by_opentelemetry_s_ratio(share: float) -> None:
    theirs, ours = TraceIdRatioBased(share), Sampling(share)
    chance = random.Random(7)
    ids = [chance.getrandbits(128) for _ in range(500)] + [1, (1 << 128) - 1, (1 << 64) - 1, 1 << 64]
    taken = [theirs.should_sample(None, each, "x").decision.is_sampled() for each in ids]
    assert [ours.takes(each, None) for each in ids] == taken


@pytest.mark.parametrize("is_sampled", [True, False])
def test_the_caller_s_word_counts_where_there_is_one(is_sampled: bool) -> None:
    parent = Parent(5, 6, is_sampled)
    assert Sampling(1 - is_sampled).takes(5, parent) is is_sampled
    assert Sampling(1 - is_sampled, follows_parent=False).takes(5, parent) is not is_sampled


@pytest.mark.parametrize(
    ("name", "argument", "expected"),
    [
        ("", "", Sampling()),
        ("parentbased_always_on", "", Sampling()),
        ("parentbased_always_off", "", Sampling(0.0)),
        ("always_on", "0.5", Sampling(1.0, follows_parent=False)),
        ("ALWAYS_OFF", "", Sampling(0.0, follows_parent=False)),
        ("traceidratio", "0.25", Sampling(0.25, follows_parent=False)),
        ("parentbased_traceidratio", "0.1", Sampling(0.1)),
        ("parentbased_traceidratio", "", Sampling(1.0)),
    ],
)
def test_opentelemetry_s_variables_say_which(name: str, argument: str, expected: Sampling) -> None:
    assert sampling_of({"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": argument}) == expected


@pytest.mark.parametrize(
    ("name", "argument", "told"),
    [
        ("jaeger_remote", "", "choose one of always_on"),
        ("traceidratio", "half", "0 to 1"),
        ("traceidratio", "1.5", "0 to 1"),
    ],
)
def test_what_is_no_sampler_is_an_error_that_says_what_to_write(name: str, argument: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        sampling_of({"OTEL_TRACES_SAMPLER": name, "OTEL_TRACES_SAMPLER_ARG": argument})
