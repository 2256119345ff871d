"""The native sampler against that in torch, in each variant: the same tokens, probabilities and log probabilities."""

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from servery.engine import sampler
from servery.engine.native.sampling import NativeSampler
from servery.engine.request import NewRequest, SamplingParams
from servery.engine.request import Sequence as Completion
from servery.engine.sampler import SamplingRow
from tests.engine.native.kernels import VARIANTS, best_context, context, require

SIZES = [1, 7, 33, 1_536, 4_096, 4_097, 6_000]  # around a vector, a block, and where blocks race first
PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.1, 0.7, 1.0, 1.9]),
    top_k=st.sampled_from([0, 0, 1, 3, 50, 5_000]),
    top_p=st.sampled_from([1.0, 0.97, 0.5, 0.01]),
    min_p=st.sampled_from([0.0, 0.05]),
    presence_penalty=st.sampled_from([0.0, 0.7]),
    frequency_penalty=st.sampled_from([0.0, 0.4]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    logit_bias=st.sampled_from([{}, {0: 2.3}]),
    logprobs=st.sampled_from([None, 0, 5, 20]),
    allowed_token_ids=st.sampled_from([(), (0,)]),
)


def rows_of(params: Sequence[SamplingParams], size: int, seed: int) -> list[SamplingRow]:
    """Rows with tokens, masks and barred tokens of all kinds."""
    some = random.Random(seed)
    rows = []
    for each in params:
        tokens = [some.randrange(size) for _ in range(some.choice([0, 5, 40]))]
        mask = np.array([some.randrange(-(2**31), 2**31) | 1 for _ in range(-(-size // 32))], np.int32)
        rows.append(
            SamplingRow(
                each,
                some.randrange(-(2**63), 2**63),
                len(tokens),
                len(tokens) // 2,
                tokens,
                allowed=some.choice([None, None, mask]),
                barred=some.choice([(), (size - 1,)]) if size > 1 else (),
            )
        )
    return rows


def logits_of(rows: int, size: int, seed: int) -> Tensor:
    some = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, size, generator=some) * [0.5, 3.0, 8.0][seed % 3]
    return logits.round() if seed % 4 == 0 else logits  # with many equal ones


@pytest.mark.parametrize("variant", VARIANTS)
@given(st.lists(PARAMS, min_size=1, max_size=5), st.sampled_from(SIZES), st.integers(0, 10_000))
@settings(deadline=None, max_examples=40, derandomize=True)  # tokens as near as rounding may differ
def test_tokens_are_those_of_the_oracle(variant, params, size, seed):
    ours = NativeSampler(context(require(variant)))
    rows, logits = rows_of(params, size, seed), logits_of(len(params), size, seed)
    expected = sampler.sample(logits, rows)
    found = ours.sample(logits, rows)
    assert [one.token_id for one in found] == [one.token_id for one in expected]
    assert [one.token_id for one in ours.draw(logits, rows)] == [one.token_id for one in expected]
    scores = logits.log_softmax(dim=-1).tolist()
    for at, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        assert (mine.logprobs is None, mine.error) == (theirs.logprobs is None, theirs.error)
        if mine.logprobs is not None and theirs.logprobs is not None:
            assert mine.logprobs.logprob == pytest.approx(theirs.logprobs.logprob, rel=1e-5, abs=1e-5)
            told = [logprob for _, logprob in mine.logprobs.top]
            assert told == pytest.approx([logprob for _, logprob in theirs.logprobs.top], rel=1e-5, abs=1e-5)
            assert told == pytest.approx([scores[at][token] for token, _ in mine.logprobs.top], rel=1e-5, abs=1e-5)
    probs = ours.warped_probs(logits, rows)
    torch.testing.assert_close(probs, sampler.warped_probs(logits, rows), rtol=2e-5, atol=2e-7)


def test_threads_change_nothing():
    rows = rows_of([SamplingParams(top_p=0.9, logprobs=3)] * 40, 6_000, 1)
    logits = logits_of(40, 6_000, 1)
    assert NativeSampler(best_context(3)).sample(logits, rows) == NativeSampler(best_context()).sample(logits, rows)


def completions(params: Sequence[SamplingParams], length: int = 3) -> list[Completion]:
    requests = [NewRequest(request_id=str(at), prompt=[1] * length, params=each) for at, each in enumerate(params)]
    return [Completion(each, 0, seed=at, arrival=0.0) for at, each in enumerate(requests)]


def test_what_is_kept_from_step_to_step_draws_as_rows_made_anew():
    ours = NativeSampler(best_context())
    sequences = completions([SamplingParams(top_p=0.9), SamplingParams(temperature=0), SamplingParams(top_k=3)])
    for step, left in enumerate([sequences, sequences, sequences[1:], sequences[::-1], sequences[:1]]):
        logits = logits_of(len(left), 200, step)
        rows = [SamplingRow(each.params, each.seed, len(each.tokens), 3, each.tokens) for each in left]
        tokens = ours.next_tokens(logits, left)
        assert tokens == [one.token_id for one in sampler.sample(logits, rows)]
        for each, token in zip(left, tokens, strict=True):
            each.tokens.append(token)


@pytest.mark.parametrize(
    "asking", [{"logprobs": 0}, {"presence_penalty": 1.0}, {"logit_bias": {1: 1.0}}, {"allowed_token_ids": (1,)}]
)
def test_who_asks_for_more_is_left_to_rows(asking):
    sequences = completions([SamplingParams(), SamplingParams(**asking)])
    assert NativeSampler(best_context()).next_tokens(torch.zeros(2, 8), sequences) is None


def test_unusable_logits_are_left_to_rows():
    sequences = completions([SamplingParams(), SamplingParams(temperature=0)])
    broken = torch.zeros(2, 8).index_fill(1, torch.tensor([3]), math.nan)
    assert NativeSampler(best_context()).next_tokens(broken, sequences) is None
