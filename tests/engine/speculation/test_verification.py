"""Whatever is drafted and however it is judged, tokens are distributed as without drafts."""

import itertools
import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from servery.engine.native.sampling import NativeSampler
from servery.engine.penalties import TokenHistory
from servery.engine.request import SamplingParams
from servery.engine.sampler import SamplingRow, sample, token_logprobs, warped_probs
from servery.engine.sampling import TORCH, Sampler
from servery.engine.speculation.confidence import confidences
from servery.engine.speculation.proposal import draw_proposals, is_coupled, proposal_probs
from servery.engine.speculation.verification import Check, Verified, agreed, verify
from tests.engine.native.kernels import best_context

V = 6
PROMPT = [1, 4, 1]
LENGTH = 2  # tokens looked at after the prompt
# Every combination of these is a way to warp; those of the same name exclude each other.
KNOBS = [
    {"temperature": 0.8},
    {"top_k": 4},
    {"top_p": 0.9},
    {"min_p": 0.15},
    {"repetition_penalty": 1.4, "frequency_penalty": 0.5, "presence_penalty": -0.3},
    {"logit_bias": {2: 1.5, 0: -100.0}},
]
WARPINGS = [
    {name: value for knob in chosen for name, value in knob.items()}
    for count in range(len(KNOBS) + 1)
    for chosen in itertools.combinations(KNOBS, count)
]


def table(seed: int) -> Tensor:
    """A model: logits [V, V] by the newest token."""
    return torch.randn(V, V, generator=torch.Generator().manual_seed(seed))


TARGET = table(0)
DRAFTERS = {"alike": TARGET + 0.4 * table(1), "unlike": table(2), "the same": TARGET}


def rows_of(params: SamplingParams, seed: int, tokens: list[int], drafts: list[int]) -> list[SamplingRow]:
    both = [*tokens, *drafts]
    lengths = range(len(tokens), len(both) + 1)
    return [SamplingRow(params, seed, length, len(PROMPT), both[:length]) for length in lengths]


def speculate(
    params: SamplingParams,
    draft: Tensor | None,
    seeds: list[int],
    window: int,
    doubtful: float = 0.0,
    sampler: Sampler = TORCH,
) -> tuple[list[list[int]], Counter[str]]:
    """LENGTH tokens of each seed, `window` drafts at a time; without a draft model the drafts are constant.

    Drafting ends before a token of which the draft model is less sure than `doubtful`.
    """
    texts = [list(PROMPT) for _ in seeds]
    counts: Counter[str] = Counter()
    while any(len(text) < len(PROMPT) + LENGTH for text in texts):
        drafts: list[list[int]] = [[] for _ in seeds]
        for at in range(window):
            if draft is None:
                tokens = [(text[-1] + at) % V for text in texts]
            else:
                rows = [rows_of(params, *one)[-1] for one in zip(seeds, texts, drafts, strict=True)]
                logits = draft[[row.tokens[-1] for row in rows]]
                sure = [confidence >= doubtful for confidence in confidences(logits)]
                tokens = draw_proposals(logits, rows, sampler)
            for at_run, (of, token) in enumerate(zip(drafts, tokens, strict=True)):
                if len(of) == at and (draft is None or sure[at_run]):
                    of.append(token)
        checks = [Check(rows_of(params, *one), one[2], None) for one in zip(seeds, texts, drafts, strict=True)]
        if window and draft is not None and not is_coupled(params):
            drawing = [row for check in checks for row in check.rows[:-1]]
            lengths = [len(check.drafts) for check in checks]
            rows_of_drafts = draft[[row.tokens[-1] for row in drawing]]
            proposals = proposal_probs(rows_of_drafts, drawing, sampler).split(lengths)
            checks = [
                check._replace(proposal=probs if len(probs) else None)
                for check, probs in zip(checks, proposals, strict=True)
            ]
        logits = TARGET[[row.tokens[-1] for check in checks for row in check.rows]]
        for text, check, verified in zip(texts, checks, verify(logits, checks, sampler), strict=True):
            counts.update(drafted=len(check.drafts), accepted=len(verified.token_ids) - 1)
            assert verified.token_ids[:-1] == check.drafts[: len(verified.token_ids) - 1]
            text.extend(verified.token_ids)
    return [text[len(PROMPT) : len(PROMPT) + LENGTH] for text in texts], counts


def expected(params: SamplingParams) -> dict[tuple[int, ...], float]:
    """The probability of every text of LENGTH tokens, row by row from the distribution without drafts."""
    texts = {(): 1.0}
    for _ in range(LENGTH):
        rows = [SamplingRow(params, 0, 0, len(PROMPT), [*PROMPT, *text]) for text in texts]
        probs = warped_probs(TARGET[[row.tokens[-1] for row in rows]], rows).double().tolist()
        texts = {
            (*text, token): share * probs[at][token]
            for at, (text, share) in enumerate(texts.items())
            for token in range(V)
            if probs[at][token] > 0
        }
    return texts


def distance(texts: list[list[int]], probs: dict[tuple[int, ...], float]) -> tuple[float, int]:
    """Pearson's statistic and its degrees of freedom; cells that expect fewer than 5 are taken together."""
    seen = Counter(map(tuple, texts))
    assert set(seen) <= set(probs), "a text that cannot be"
    cells = [(seen[text], share * len(texts)) for text, share in probs.items()]
    large = [cell for cell in cells if cell[1] >= 5]
    small = [cell for cell in cells if cell[1] < 5]
    if small and (rest := sum(mean for _, mean in small)) >= 5:
        large.append((sum(count for count, _ in small), rest))
    return sum((count - mean) ** 2 / mean for count, mean in large), len(large) - 1


JUDGED = {
    "constant drafts": (None, None, 0.0),
    "coupled to a like model": ("alike", 1, 0.0),
    "rejection, a like model": ("alike", None, 0.0),
    "rejection, an unlike model": ("unlike", None, 0.0),
    "rejection, where a like model is sure": ("alike", None, 0.4),
}


@pytest.mark.parametrize("runs", [60, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kernels", ["torch", "native"])
@pytest.mark.parametrize("name", JUDGED)
def test_texts_are_as_likely_as_without_drafts_for_every_warping(name, kernels, runs):
    """Each of 64 warpings within 5 standard deviations of a chi-square, and their sum within 3.5."""
    drafter, seed, doubtful = JUDGED[name]
    sampler = TORCH if kernels == "torch" else NativeSampler(best_context())
    total, degrees = 0.0, 0
    for number, warping in enumerate(WARPINGS):
        params = SamplingParams(seed=seed, **warping)
        seeds = [len(WARPINGS) * run + number for run in range(runs)]
        texts, _ = speculate(params, DRAFTERS.get(drafter), seeds, 1 + number % 2, doubtful, sampler)
        statistic, freedom = distance(texts, expected(params))
        assert statistic - freedom < 5 * math.sqrt(2 * freedom) + 5, warping
        total, degrees = total + statistic, degrees + freedom
    assert degrees > 150
    assert abs(total - degrees) < 3.5 * math.sqrt(2 * degrees)


@pytest.mark.parametrize("drafter", [None, *DRAFTERS])
@pytest.mark.parametrize("warping", [{"temperature": 0.0}, {"seed": 5}, {"seed": 5, **WARPINGS[-1]}])
def test_greedy_and_seeded_texts_are_the_same_whatever_is_drafted(drafter, warping):
    params = SamplingParams(**warping)
    seeds = list(range(100))
    plain, _ = speculate(params, None, seeds, window=0)
    for window in (1, 2, 5):
        assert speculate(params, DRAFTERS.get(drafter), seeds, window)[0] == plain


def test_rejection_accepts_the_mass_that_both_models_share():
    """The share of first drafts accepted is the sum of min(p, q); coupling accepts no more."""
    shares = {}
    for seed in (None, 1):
        params = SamplingParams(seed=seed)
        rows = [rows_of(params, run, PROMPT, [])[0] for run in range(4000)]
        logits = DRAFTERS["alike"][[PROMPT[-1]]]
        drafts = draw_proposals(logits.expand(len(rows), V), rows)
        q = proposal_probs(logits, rows[:1])
        checks = [
            Check(rows_of(params, run, PROMPT, [draft]), [draft], None if seed else q)
            for run, draft in enumerate(drafts)
        ]
        target = TARGET[[row.tokens[-1] for check in checks for row in check.rows]]
        shares[seed] = sum(len(one.token_ids) == 2 for one in verify(target, checks)) / len(checks)
    p = TARGET[PROMPT[-1]].softmax(0)
    overlap = float(torch.minimum(p, q[0]).sum())
    assert shares[None] == pytest.approx(overlap, abs=4 * math.sqrt(overlap * (1 - overlap) / 4000))
    assert overlap / (2 - overlap) - 0.03 < shares[1] < shares[None]


def test_a_model_that_drafts_for_itself_is_always_right():
    for params in (SamplingParams(), SamplingParams(seed=1, top_p=0.9), SamplingParams(temperature=0)):
        _, counts = speculate(params, DRAFTERS["the same"], list(range(50)), window=3)
        assert counts["accepted"] == counts["drafted"] > 0


def test_logprobs_are_those_of_the_rows_of_the_tokens_that_stand():
    params = SamplingParams(temperature=0.0, logprobs=2)
    best = [int(TARGET[PROMPT[-1]].argmax())]
    best.append(int(TARGET[best[0]].argmax()))
    drafts = [*best, (int(TARGET[best[1]].argmax()) + 1) % V, 0]
    check = Check(rows_of(params, 0, PROMPT, drafts), drafts)
    plain = SamplingRow(SamplingParams(temperature=0.0), 0, 3, 3, PROMPT)
    logits = TARGET[[*(row.tokens[-1] for row in check.rows), PROMPT[-1]]]
    told, untold = verify(logits, [check, Check([plain], [])])
    assert told.token_ids == [*best, int(TARGET[best[1]].argmax())]
    assert told.logprobs == token_logprobs(logits[:3], told.token_ids, 2)
    assert untold == Verified([best[0]], [])


@pytest.mark.parametrize("proposal", [None, torch.full((2, V), 1 / V)])
@pytest.mark.parametrize(("bad", "expected"), [(0, 0), (1, 1), (2, 2)])
def test_unusable_logits_end_the_list_before_them(proposal, bad, expected):
    """At the first row there is an error; later the tokens before them stand, and the next step will say it."""
    params = SamplingParams(temperature=1.0 if proposal is not None else 0.0)
    certain = torch.full((3, V), -100.0)
    certain[:, 3] = 100.0
    certain[bad] = math.nan
    (one,) = verify(certain, [Check(rows_of(params, 0, PROMPT, [3, 3]), [3, 3], proposal)])
    assert one.token_ids == [3] * expected
    assert (one.error is not None) == (expected == 0)


def test_a_draft_model_without_usable_logits_drafts_something():
    rows = rows_of(SamplingParams(), 0, PROMPT, [])
    broken = torch.full((1, V), math.nan)
    assert draw_proposals(broken, rows) == [0]
    assert proposal_probs(broken, rows).tolist() == [[1.0] + [0.0] * (V - 1)]


def test_a_history_that_goes_on_leaves_the_one_before_it_as_it_was():
    params = SamplingParams(temperature=0.0, repetition_penalty=1.3, frequency_penalty=0.4)
    tokens = [*range(70), 3, 3]
    history = TokenHistory(params, 5)
    history.catch_up(tokens)
    before = history.ids.tolist(), history.counts.tolist()
    further = history.followed_by([*tokens, 3, 99, *range(200, 300)])
    fresh = TokenHistory(params, 5)
    fresh.catch_up([*tokens, 3, 99, *range(200, 300)])
    assert (history.ids.tolist(), history.counts.tolist()) == before
    assert (further.ids.tolist(), further.counts.tolist()) == (fresh.ids.tolist(), fresh.counts.tolist())


def test_without_drafts_it_is_the_sampler():
    rows = [rows_of(SamplingParams(logprobs=1), seed, PROMPT, [])[0] for seed in range(20)]
    logits = TARGET[[PROMPT[-1]]].expand(20, V)
    told = [Verified([one.token_id], [one.logprobs]) for one in sample(logits, rows)]
    assert verify(logits, [Check([row], []) for row in rows]) == told


def test_of_largest_logits_drafts_stand_up_to_the_first_that_differs():
    assert agreed([[5, 6], [], [7, 8], [1]], [5, 6, 9, 4, 3, 8, 2, 1, 0]) == [[5, 6, 9], [4], [3], [1, 0]]
