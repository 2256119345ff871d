"""What measurements make of their times is what their claims say."""

import random

import pytest

from benchmarks.claims.arithmetic import headroom_percent, mixture_share, results
from benchmarks.claims.batching import SPREADS, Exponential, variation
from benchmarks.claims.bounds import computing_over_reading, mbu, mfu
from benchmarks.claims.kv_size import SHAPES
from benchmarks.claims.latency import output_over_prompt, predicted_s
from benchmarks.claims.measurement import ratio, spread
from benchmarks.claims.quantization import gpus, sensitivity
from benchmarks.claims.streaming import saved_percent

LIMITS = {"bandwidth": 20e9, "operations_per_s": 200e9}


def test_shares_of_the_limits_are_those_of_bytes_and_operations() -> None:
    step = {"rows": 1, "seconds": 0.1, "bytes": 1e9, "operations": 2e9}
    assert mbu(step, LIMITS) == pytest.approx(50.0)
    assert mfu(step, LIMITS) == pytest.approx(10.0)
    assert computing_over_reading(step, LIMITS) == pytest.approx(0.01 / 0.05)


def test_a_long_answer_is_predicted_from_a_short_one() -> None:
    assert predicted_s({"ttft_s": 0.4, "total_s": 0.4 + 99 * 0.04}, 100, 500) == pytest.approx(0.4 + 499 * 0.04)


def test_streaming_saves_the_share_of_the_wait() -> None:
    assert saved_percent([0.2, 0.5], [5.0, 2.0]) == pytest.approx([96.0, 75.0])


def test_sensitivity_compares_means_of_strata() -> None:
    found = {"arithmetic": 3.0, "reasoning": 2.0, "format": 1.0, "long": 4.0, "tools": 2.0, "(all)": 99.0}
    assert sensitivity(found) == pytest.approx(2.0 / 3.0)


def test_all_spreads_of_lengths_have_the_same_mean_and_vary_more_and_more() -> None:
    drawn = {name: [lengths.draw(random.Random(seed)) for seed in range(3000)] for name, lengths in SPREADS.items()}
    assert [sum(each) / len(each) for each in drawn.values()] == pytest.approx([128.0] * len(drawn), rel=0.08)
    varying = [variation(each) for each in drawn.values()]
    assert varying == sorted(varying)
    assert varying[0] == 0.0


def test_no_length_is_above_the_most() -> None:
    drawn = [Exponential(128.0, 200).draw(random.Random(seed)) for seed in range(500)]
    assert (min(drawn) >= 1, max(drawn)) == (True, 200)


def test_the_texts_sums() -> None:
    found = results()
    assert found["api-bill"] == pytest.approx(4200)
    assert found["startup-bill"] == pytest.approx(2.88)
    assert found["compression-with-answers"] == pytest.approx(100 * 280 / 2400)
    assert mixture_share() == pytest.approx(12.9 / 46.7, rel=0.005)  # billions, as its makers say
    assert headroom_percent(160_000_000_000, 4, 80) == pytest.approx(50.0)


def test_the_shapes_are_those_of_the_models() -> None:
    assert {name: (shape["num_hidden_layers"], shape["num_key_value_heads"]) for name, shape in SHAPES.items()} == {
        "Llama-2-7B": (32, 32),
        "Llama-2-13B": (40, 40),
        "Llama-2-70B": (80, 8),
        "Llama-3.1-8B": (32, 8),
    }


def test_readings_keep_the_ends_of_their_rounds() -> None:
    assert spread("a", [3.0, 1.0, 2.0]) == ratio("a", {"median": 2.0, "min": 1.0, "max": 3.0})


def test_gpus_are_whole() -> None:
    assert [gpus(size, 80) for size in (36_900_000_000, 80_000_000_000, 137_950_000_000)] == [1, 1, 2]


def test_a_generated_token_is_held_against_one_of_a_prompt() -> None:
    """Steps of 2 sequences in 0.2 s, prompts of 100 tokens in 1 s: 0.1 s against 0.01 s."""
    assert output_over_prompt([0.2] * 5, 2, [1.0] * 3, 100) == pytest.approx(10.0)
