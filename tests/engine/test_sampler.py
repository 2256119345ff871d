"""The samplers, that in torch and the native one, against a plain reference in float64, and in every batch."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from servery.engine.errors import InvalidRequest
from servery.engine.native.sampling import NativeSampler
from servery.engine.penalties import TokenHistory
from servery.engine.randomness import exponentials, uniforms
from servery.engine.request import SamplingParams, TokenLogprobs, check_params
from servery.engine.sampler import Sampled, SamplingRow, largest, token_logprobs
from servery.engine.sampling import TORCH, Sampler
from tests.engine.native.kernels import best_context

V = 40


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Tested:
    """The sampler that the tests below ask."""

    sampler: Sampler = TORCH


@pytest.fixture(scope="module", params=["torch", "native"], autouse=True)
def _tested(request):
    Tested.sampler = TORCH if request.param == "torch" else NativeSampler(best_context())
    yield
    Tested.sampler = TORCH


def sample(logits: Tensor, rows: Sequence[SamplingRow]) -> list[Sampled]:
    return Tested.sampler.sample(logits, rows)


def warped_probs(logits: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
    return Tested.sampler.warped_probs(logits, rows)


def row(params: SamplingParams | None = None, tokens: Sequence[int] = (), **other) -> SamplingRow:
    defaults = {"seed": 1, "position": len(tokens), "prompt_len": len(tokens) // 2, "tokens": tokens}
    return SamplingRow(params or SamplingParams(), **(defaults | other))


def random_logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3


# ---------------------------------------------------------------- the reference


def reference(logits: list[float], row: SamplingRow) -> list[float]:
    """The distribution after all parameters, in float64, one step at a time."""
    params, output = row.params, row.tokens[row.prompt_len :]
    logits = [logit + params.logit_bias.get(i, 0.0) for i, logit in enumerate(logits)]
    for i in set(row.tokens):
        penalty = params.repetition_penalty
        logits[i] = logits[i] / penalty if logits[i] > 0 else logits[i] * penalty
    for i in set(output):
        logits[i] -= params.frequency_penalty * output.count(i) + params.presence_penalty
    if params.temperature == 0:
        best = max(range(len(logits)), key=lambda i: (logits[i], -i))
        return [float(i == best) for i in range(len(logits))]
    kept = set(range(len(logits)))
    if 0 < params.top_k < len(logits):
        smallest = sorted(logits, reverse=True)[params.top_k - 1]
        kept = {i for i in kept if logits[i] >= smallest}
    probs = softmax(logits, kept, params.temperature)
    if params.top_p < 1:
        mass, nucleus = 0.0, set()
        for i in sorted(kept, key=lambda i: (-logits[i], i)):
            if mass < params.top_p:
                nucleus.add(i)
            mass += probs[i]
        probs = softmax(logits, nucleus, params.temperature)
    kept = {i for i, p in enumerate(probs) if p > 0 and p >= params.min_p * max(probs)}
    return softmax(logits, kept, params.temperature)


def softmax(logits: list[float], kept: set[int], temperature: float) -> list[float]:
    peak = max(logits[i] for i in kept)
    weights = [math.exp((x - peak) / temperature) if i in kept else 0.0 for i, x in enumerate(logits)]
    return [weight / sum(weights) for weight in weights]


params_strategy = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 3, 10, V - 1, V, 10_000]),
    top_p=st.sampled_from([0.013, 0.37, 0.91, 1.0]),
    min_p=st.sampled_from([0.0, 0.0123, 0.29]),
    presence_penalty=st.sampled_from([0.0, 0.7, -1.3]),
    frequency_penalty=st.sampled_from([0.0, 0.45, -0.6]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
    logit_bias=st.dictionaries(st.integers(0, V - 1), st.sampled_from([-100.0, -1.1, 2.3, 100.0]), max_size=3),
    logprobs=st.sampled_from([None, 0, 5]),
)
rows_strategy = st.builds(
    lambda params, tokens, prompt_len, seed: row(params, tokens, prompt_len=min(prompt_len, len(tokens)), seed=seed),
    params_strategy,
    st.lists(st.integers(0, V - 1), max_size=12),
    st.integers(0, 12),
    st.integers(-(2**63), 2**63 - 1),
)


@given(st.lists(rows_strategy, min_size=1, max_size=6), st.integers(0, 10_000))
@settings(deadline=None, max_examples=150, derandomize=True)  # float32 may differ within 1e-7 of a cut
def test_the_distribution_is_that_of_the_reference(rows, seed):
    logits = random_logits(len(rows), V, seed=seed)
    expected = torch.tensor([reference(logits[i].tolist(), r) for i, r in enumerate(rows)])
    torch.testing.assert_close(warped_probs(logits, rows), expected, rtol=2e-5, atol=2e-7)


@given(st.lists(rows_strategy, min_size=1, max_size=6), st.integers(0, 10_000))
@settings(deadline=None, max_examples=150, derandomize=True)  # float32 may differ within 1e-7 of a cut
def test_the_token_wins_the_race_of_the_references_probabilities(rows, seed):
    logits = random_logits(len(rows), V, seed=seed)
    for i, (r, sampled) in enumerate(zip(rows, sample(logits, rows), strict=True)):
        probs = reference(logits[i].tolist(), r)
        assert probs[sampled.token_id] > 0
        if not r.params.is_greedy:
            noise = exponentials([r.seed], [r.position], 2 * np.arange(V))[0].tolist()
            scores = [p / e for p, e in zip(probs, noise, strict=True)]
            assert scores[sampled.token_id] >= max(scores) * (1 - 1e-4)


@given(st.lists(rows_strategy, min_size=2, max_size=6), st.integers(0, 10_000), st.randoms())
@settings(deadline=None, max_examples=100)
def test_a_row_gives_the_same_in_any_batch(rows, seed, random):
    logits = random_logits(len(rows), V, seed=seed)
    together = sample(logits, rows)
    alone = [sample(logits[i : i + 1], [r])[0] for i, r in enumerate(rows)]
    order = random.sample(range(len(rows)), len(rows))
    shuffled = sample(logits[order], [rows[i] for i in order])
    assert together == alone
    assert shuffled == [together[i] for i in order]


def test_a_row_of_a_large_vocabulary_gives_the_same_in_any_batch():
    """50,000 tokens take the shortlist of top_p, its fallback, and reductions that torch would split."""
    choices = [{}, {"top_p": 0.5}, {"top_p": 0.999, "temperature": 9.0}, {"top_k": 50, "top_p": 0.9}, {"min_p": 0.1}]
    rows = [row(SamplingParams(logprobs=3, **choice), seed=i) for i, choice in enumerate(choices * 4)]
    logits = random_logits(len(rows), 50_000)
    assert sample(logits, rows) == [sample(logits[i : i + 1], [r])[0] for i, r in enumerate(rows)]


@pytest.mark.parametrize("vocab_size", [64**2, 64**2 + 1, 5_056])
def test_a_large_vocabulary_is_drawn_as_often_as_it_is_likely(vocab_size):
    """Races of blocks draw from the same distribution: seen by the place in a block, and by the block."""
    logits = random_logits(1, vocab_size).expand(10_000, vocab_size)
    rows = [row(seed=5, position=i) for i in range(10_000)]
    probs = logits[0].double().softmax(-1)
    token_ids = torch.tensor([sampled.token_id for sampled in sample(logits, rows)])
    for cell in (torch.arange(vocab_size) % 61, torch.arange(vocab_size) // 64 % 13):
        expected = torch.zeros(int(cell.max()) + 1, dtype=torch.float64).index_add_(0, cell, probs) * 10_000
        observed = cell[token_ids].bincount(minlength=len(expected)).double()
        assert abs(chi_square(observed, expected)) < 4


@pytest.mark.parametrize("vocab_size", [1_536, 8_000])
@pytest.mark.parametrize("params", [{"temperature": 1.5}, {"temperature": 1.2, "top_p": 0.9}, {"top_k": 40}])
def test_rounding_of_logits_does_not_change_the_token(vocab_size, params):
    """Batches of another shape change logits by about 4e-6; every token's border would move in an inverted sum.

    A race changes about one draw in 100,000 then, the inverted sum one in 1,000 and more; these seeds are fixed.
    """
    logits = random_logits(1, vocab_size).expand(1_500, vocab_size).contiguous()
    rounded = logits + 4e-6 * random_logits(1_500, vocab_size, seed=1).clamp(-1, 1)
    rows = [row(SamplingParams(**params), seed=3, position=i) for i in range(1_500)]
    assert sample(rounded, rows) == sample(logits, rows)


def test_the_nucleus_of_a_large_vocabulary_is_exact():
    logits = random_logits(2, 5_000)
    rows = [row(SamplingParams(top_p=0.6)), row(SamplingParams(top_p=0.99, temperature=5.0))]
    expected = torch.tensor([reference(logits[i].tolist(), r) for i, r in enumerate(rows)])
    assert [int((p > 0).sum()) for p in expected] == [5, 4788]
    torch.testing.assert_close(warped_probs(logits, rows), expected, rtol=1e-4, atol=1e-9)


def test_warping_is_that_of_transformers():
    logits, tokens = random_logits(1, V), [3, 5, 5, 7]
    ids = torch.tensor([tokens])
    scores = logits
    for processor in (
        RepetitionPenaltyLogitsProcessor(1.4),
        TemperatureLogitsWarper(0.8),
        TopKLogitsWarper(20),
        TopPLogitsWarper(0.83),
        MinPLogitsWarper(0.06),
    ):
        scores = processor(ids, scores)
    ours = warped_probs(
        logits, [row(SamplingParams(repetition_penalty=1.4, temperature=0.8, top_k=20, top_p=0.83, min_p=0.06), tokens)]
    )
    torch.testing.assert_close(ours, scores.softmax(-1))


# ---------------------------------------------------------------- edges


def kept(logits: list[float], **params) -> list[int]:
    return warped_probs(torch.tensor([logits]), [row(SamplingParams(**params))])[0].nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("logits", "params", "expected"),
    [
        ([1.0, 2.0, 2.0, 0.0], {"top_k": 1}, [1, 2]),  # all that equal the k-th
        ([1.0, 2.0, 3.0], {"top_k": 3}, [0, 1, 2]),
        ([1.0, 2.0, 3.0], {"top_k": 2**31}, [0, 1, 2]),
        ([1.0, -math.inf, 3.0], {"top_k": 2}, [0, 2]),
        ([1.0, -math.inf, -math.inf], {"top_k": 2}, [0]),
        ([0.0, 0.0, 5.0], {"top_p": 1e-12}, [2]),  # at least one
        ([0.0] * 10, {"top_p": 0.3}, [0, 1, 2]),  # exactly the mass, lowest ids of equal ones
        ([0.0] * 10, {"top_p": 0.300001}, [0, 1, 2, 3]),
        ([1.0, 1.0, 9.0, 1.0], {"top_p": 0.9999, "temperature": 10.0}, [0, 1, 2, 3]),
        ([math.log(0.5), math.log(0.3), math.log(0.2)], {"top_p": 0.5000001}, [0, 1]),
        ([0.0] * 5, {"min_p": 1.0}, [0, 1, 2, 3, 4]),
        ([0.0, 1.0], {"min_p": 1.0}, [1]),
        ([0.0, 0.0], {"temperature": 0.0}, [0]),
        ([0.0, 1e-4], {"temperature": 1e-40}, [1]),
        ([3e38, -3e38], {"temperature": 1e-3}, [0]),
        ([0.0, 1.0], {"logit_bias": {0: 100.0}, "temperature": 0.0}, [0]),
    ],
)
def test_edges_keep_exactly(logits, params, expected):
    assert kept(logits, **params) == expected


def test_ties_at_the_border_of_a_shortlist_are_exact():
    """300 equal logits: the 256 that are sorted first cannot decide."""
    assert kept([1.0] * 300, top_p=0.99) == list(range(297))
    assert kept([1.0] * 300 + [2.0], top_k=2, top_p=0.5) == [*range(149), 300]


def test_greedy_takes_the_first_of_equal_logits():
    assert sample(torch.zeros(1, V), [row(SamplingParams(temperature=0))]) == [Sampled(0)]


def test_logits_are_left_as_they_were():
    logits = random_logits(3, V)
    before = logits.clone()
    biased = SamplingParams(logit_bias={1: 5.0}, presence_penalty=1.0, top_k=3, top_p=0.5)
    sample(logits, [row(biased, [1, 2, 3])] * 3)
    assert torch.equal(logits, before)


def test_bfloat16_logits_are_sampled_in_float32():
    logits = random_logits(4, V).bfloat16()
    rows = [row(SamplingParams(top_p=0.9), seed=i) for i in range(4)]
    assert sample(logits, rows) == sample(logits.float(), rows)


def test_no_rows_give_no_tokens():
    assert sample(torch.empty(0, V), []) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, "all impossible"])
def test_a_row_with_unusable_logits_fails_alone(bad):
    logits = random_logits(5, V)
    rows = [
        row(SamplingParams(temperature=t, top_k=5, top_p=0.9, logprobs=2), seed=i) for i, t in enumerate([1, 0] * 2)
    ]
    rows.append(row(SamplingParams(presence_penalty=1.0), [1, 2]))
    healthy = sample(logits, rows)
    for i in range(5):
        broken = logits.clone()
        broken[i] = broken[i].masked_fill(torch.arange(V) == 7, bad) if isinstance(bad, float) else -math.inf
        sampled = sample(broken, rows)
        assert (sampled[i].token_id, sampled[i].logprobs) == (-1, None)
        assert f"position {rows[i].position} are not finite" in str(sampled[i].error)
        assert sampled[:i] + sampled[i + 1 :] == healthy[:i] + healthy[i + 1 :]
        probs = warped_probs(broken, rows)
        assert probs[i].isnan().all()
        assert torch.equal(
            probs[[j for j in range(5) if j != i]], warped_probs(logits, rows)[[j for j in range(5) if j != i]]
        )


def test_a_masked_token_is_never_drawn():
    logits = torch.full((200, V), -math.inf)
    logits[:, [3, 39]] = 0.0
    rows = [row(seed=seed) for seed in range(200)]
    assert {sampled.token_id for sampled in sample(logits, rows)} == {3, 39}


def test_ids_outside_the_vocabulary_are_refused_by_name():
    check_params(SamplingParams(logit_bias={V - 1: 1.0}, stop_token_ids=(0,)), V)
    with pytest.raises(InvalidRequest, match="logit_bias has token id 40; this model's ids are 0 to 39") as caught:
        check_params(SamplingParams(logit_bias={V: 1.0}), V)
    assert caught.value.param == "logit_bias"
    with pytest.raises(InvalidRequest, match="stop_token_ids has token id -1"):
        check_params(SamplingParams(stop_token_ids=(-1,)), V)


# ---------------------------------------------------------------- penalties


def test_a_history_kept_over_steps_samples_like_one_made_anew():
    params = SamplingParams(presence_penalty=0.5, frequency_penalty=0.3, repetition_penalty=1.2)
    tokens, history = [1, 2, 2, 9], TokenHistory(params, prompt_len=3)
    for step in range(150):
        logits = random_logits(1, 200, seed=step)
        fresh = row(params, tokens, prompt_len=3)
        sampled = sample(logits, [fresh._replace(history=history)])
        assert sampled == sample(logits, [fresh])
        tokens.append(sampled[0].token_id)
    assert dict(zip(history.ids.tolist(), history.counts.tolist(), strict=True)) == {
        i: tokens[3:-1].count(i) for i in set(tokens[:-1])
    }


def test_prompt_tokens_are_counted_only_for_the_repetition_penalty():
    history = TokenHistory(SamplingParams(presence_penalty=1.0), prompt_len=3)
    history.catch_up([1, 2, 3, 4, 4])
    assert (history.ids.tolist(), history.counts.tolist()) == ([4], [2.0])


def test_a_history_that_would_shrink_is_refused():
    history = TokenHistory(SamplingParams(repetition_penalty=2.0), prompt_len=1)
    history.catch_up([1, 2])
    with pytest.raises(ValueError, match="shrank"):
        history.catch_up([1])


def test_presence_counts_once_and_frequency_each_time():
    logits = torch.zeros(1, 4)
    params = SamplingParams(presence_penalty=1.0, frequency_penalty=0.5)
    probs = warped_probs(logits, [row(params, [0, 1, 2, 2], prompt_len=1)])
    torch.testing.assert_close(probs.log() - probs.log()[:, :1], torch.tensor([[0.0, -1.5, -2.0, 0.0]]))


# ---------------------------------------------------------------- log probabilities


def test_logprobs_are_the_models_before_any_parameter():
    logits = random_logits(2, V)
    params = SamplingParams(temperature=0.0, logprobs=2, logit_bias={5: 100.0}, top_k=1)
    expected = logits[0].log_softmax(-1).tolist()
    best = sorted(range(V), key=lambda i: -expected[i])[:2]
    told, untold = sample(logits, [row(params), row(SamplingParams(temperature=0))])
    assert untold == Sampled(int(logits[1].argmax()))
    assert told.logprobs is not None
    assert told == Sampled(5, TokenLogprobs(5, told.logprobs.logprob, told.logprobs.top))
    assert [i for i, _ in told.logprobs.top] == best
    rounded = [told.logprobs.logprob, *(logprob for _, logprob in told.logprobs.top)]
    assert rounded == pytest.approx([expected[5], *(expected[i] for i in best)], rel=1e-6)


def test_top_logprobs_of_equal_tokens_are_the_lowest_ids():
    logits = torch.tensor([[1.0, 2.0, 1.0, 2.0, 1.0, 2.0]])
    assert [i for i, _ in token_logprobs(logits, [0], 4)[0].top] == [1, 3, 5, 0]
    assert [i for i, _ in token_logprobs(logits, [0], 2)[0].top] == [1, 3]


def test_impossible_tokens_are_not_among_the_top():
    logits = torch.tensor([[0.0, -math.inf, 0.0]])
    assert [i for i, _ in token_logprobs(logits, [0], 3)[0].top] == [0, 2]


def test_many_rows_of_logprobs_are_those_of_each_row():
    """A long prompt is scored in parts."""
    logits = random_logits(150, V)
    ids = [i % V for i in range(150)]
    assert token_logprobs(logits, ids, 3) == [token_logprobs(logits[i : i + 1], [ids[i]], 3)[0] for i in range(150)]


# ---------------------------------------------------------------- randomness


def chi_square(observed: Tensor, expected: Tensor) -> float:
    """The statistic's distance from its mean in standard deviations (of a chi-square with that many cells)."""
    degrees = observed.numel() - 1
    return float((((observed - expected) ** 2 / expected).sum() - degrees) / math.sqrt(2 * degrees))


@pytest.mark.parametrize(
    ("seeds", "positions", "draw"),
    [
        ([7] * 50_000, range(50_000), 0),
        (range(50_000), [7] * 50_000, 0),
        ([2**40 * i for i in range(50_000)], [0] * 50_000, 3),
        ([i // 250 for i in range(50_000)], [i % 250 for i in range(50_000)], 1),
    ],
    ids=["one seed", "one position", "distant seeds", "a grid"],
)
def test_numbers_are_uniform_and_independent(seeds, positions, draw):
    u = torch.from_numpy(uniforms(seeds, positions, draw))
    other_draw = torch.from_numpy(uniforms(seeds, positions, draw + 1))
    cells = (u * 50).long()
    assert abs(chi_square(cells.bincount(minlength=50).double(), torch.full((50,), 1000.0))) < 4
    low_bits = (u * 2**53).long() % 64
    assert abs(chi_square(low_bits.bincount(minlength=64).double(), torch.full((64,), 50_000 / 64))) < 4
    for following in (u.roll(1), u.roll(250), other_draw):
        pairs = cells // 5 * 10 + (following * 10).long()
        assert abs(chi_square(pairs.bincount(minlength=100).double(), torch.full((100,), 500.0))) < 4


def test_numbers_are_fixed_for_ever():
    """A change would change what every seed means."""
    assert uniforms([0, 1, -1], [0, 5, 2**31]).tolist() == [
        0.13870941014555427,
        0.9911237274725585,
        0.09661121213011281,
    ]
    assert uniforms([1], [5], draw=2).tolist() == [0.8948792241773824]


def test_exponential_numbers_have_their_distribution():
    """Mean and variance 1, and a share of exp(-x) above x; 4 standard deviations are allowed."""
    e = exponentials(range(300), [5] * 300, np.arange(200)).ravel()
    assert (e > 0).all()
    assert abs(e.mean() - 1) < 4 / math.sqrt(e.size)
    for x in (0.1, 1.0, 3.0):
        share = math.exp(-x)
        assert abs((e > x).mean() - share) < 4 * math.sqrt(share * (1 - share) / e.size)
    assert exponentials([1], [5], np.array([2]))[0, 0] == -math.log1p(-0.8948792241773824) + 2.0**-60


def test_tokens_are_drawn_as_often_as_they_are_likely():
    params = SamplingParams(temperature=0.9, top_k=12, top_p=0.95, min_p=0.02)
    logits = random_logits(1, V).expand(5_000, V)
    rows = [row(params, seed=99, position=i) for i in range(5_000)]
    expected = warped_probs(logits[:1], rows[:1])[0].double() * 5_000
    counts = torch.tensor([sampled.token_id for sampled in sample(logits, rows)]).bincount(minlength=V).double()
    possible = expected > 0
    assert counts[~possible].sum() == 0
    assert abs(chi_square(counts[possible], expected[possible])) < 4


def test_the_largest_logit_of_each_row_is_found_and_unusable_rows_are_left_to_the_sampler():
    nan, inf = float("nan"), float("inf")
    assert largest(torch.tensor([[0.0, 2.0, 2.0], [-1.0, -inf, -3.0]])) == [1, 0]
    for row in ([nan, 1.0, 2.0], [-inf, -inf, -inf], [0.0, inf, 0.0]):
        assert largest(torch.tensor([[0.0, 1.0, 2.0], row])) is None


def test_only_allowed_tokens_are_chosen_and_those_that_end_too_early_are_not() -> None:
    logits = random_logits(3, V)
    rows = [
        row(SamplingParams(allowed_token_ids=(5, 7))),
        row(SamplingParams(min_tokens=2), barred=frozenset({3, 11})),
        row(SamplingParams()),
    ]
    probs = warped_probs(logits, rows)
    plain = logits.softmax(dim=-1)
    only = torch.zeros(V).index_copy(0, torch.tensor([5, 7]), plain[0, [5, 7]])
    without = plain[1].index_fill(0, torch.tensor([3, 11]), 0.0)
    expected = torch.stack([only / only.sum(), without / without.sum(), plain[2]])
    torch.testing.assert_close(probs, expected, atol=1e-6, rtol=1e-4)
    assert not SamplingParams(temperature=0.0, min_tokens=1).takes_largest
