"""Edits that a device makes to logits are those of the host's sampler, also where it alone knows the newest token."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.engine.logit_edits import LogitEdits, edited, pack_edits
from servery.engine.packed_arrays import PackedArrays
from servery.engine.request import PENDING_TOKEN, SamplingParams
from servery.engine.sampler import SamplingRow, _adjust
from tests.engine.one_device import META, reads_of

V = 70
PARAMS = [
    SamplingParams(),
    SamplingParams(logit_bias={0: 2.5, 69: -100.0}),
    SamplingParams(repetition_penalty=1.3, frequency_penalty=0.2, presence_penalty=-0.4),
    SamplingParams(allowed_token_ids=(1, 33, 69)),
    SamplingParams(frequency_penalty=1.5, logit_bias={7: 1.0}),
    SamplingParams(repetition_penalty=0.7),
]
MASK = torch.tensor([5, -(2**31), 3, 9], dtype=torch.int32).numpy()  # a word more than the vocabulary has
TOKENS = st.lists(st.integers(0, V - 1), max_size=6)


def row(params: SamplingParams, prompt: list[int], output: list[int], **changes: object) -> SamplingRow:
    return SamplingRow(params, 0, 0, len(prompt), [*prompt, *output], **changes)  # type: ignore[arg-type]


def packed(rows: list[SamplingRow], newest: list[int]) -> LogitEdits:
    return LogitEdits(*PackedArrays.of(pack_edits(rows, newest, V)).on(torch.device("cpu")))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(PARAMS), TOKENS, TOKENS, st.integers(-1, V - 1)), min_size=1, max_size=6))
def test_edits_are_the_hosts_whoever_knows_the_newest_token(cases: list[tuple]) -> None:
    """A newest token of -1 is one that the host knows; the others lie on the device, where other rows' are too."""
    known = [row(params, prompt, out if new < 0 else [*out, new]) for params, prompt, out, new in cases]
    given_rows = [row(params, prompt, out if new < 0 else [*out, PENDING_TOKEN]) for params, prompt, out, new in cases]
    last = torch.tensor([new for *_, new in reversed(cases)])
    newest = [-1 if new < 0 else len(cases) - 1 - at for at, (*_, new) in enumerate(cases)]
    logits = torch.randn(len(cases), V, generator=torch.Generator().manual_seed(len(cases)))
    before = logits.clone()
    assert torch.equal(edited(logits, packed(given_rows, newest), last), _adjust(logits, known))
    assert torch.equal(logits, before)


def test_masks_and_barred_tokens_leave_what_they_allow() -> None:
    logits = torch.randn(4, V)
    rows = [
        row(SamplingParams(), [], [], allowed=MASK),
        row(SamplingParams(), [], []),
        row(SamplingParams(), [], [], barred=frozenset({2, 69})),
        row(SamplingParams(presence_penalty=1.0), [3], [4], allowed=MASK, barred=[33]),
    ]
    assert torch.equal(edited(logits, packed(rows, [-1] * 4), torch.zeros(4, dtype=torch.int64)), _adjust(logits, rows))


def test_logits_of_which_nobody_says_anything_are_not_copied() -> None:
    logits = torch.randn(2, V)
    rows = [row(SamplingParams(temperature=0.3, logprobs=3), [1], [2])] * 2
    assert edited(logits, packed(rows, [-1, -1]), torch.zeros(2, dtype=torch.int64)) is logits


@pytest.mark.parametrize("failed", [0, 1])
def test_a_row_without_a_newest_token_changes_no_other(failed: int) -> None:
    """The device holds -1 for a row that failed; what comes of that row nobody reads."""
    rows = [row(SamplingParams(repetition_penalty=2.0), [1, 0], [5, PENDING_TOKEN])] * 2
    tokens = [7, 7]
    tokens[failed] = -1
    logits = torch.randn(2, V)
    found = edited(logits, packed(rows, [0, 1]), torch.tensor(tokens))
    expected = _adjust(logits, [row(SamplingParams(repetition_penalty=2.0), [1, 0], [5, 7])] * 2)
    assert torch.equal(found[1 - failed], expected[1 - failed])


def test_nothing_waits_for_the_device() -> None:
    rows = [row(params, [3, 40], [5, PENDING_TOKEN], barred=[2]) for params in PARAMS]
    edits = LogitEdits(*(each.to(META) for each in packed(rows, [0] * len(rows))))
    logits, last = torch.empty(len(rows), V, device=META), torch.empty(1, dtype=torch.int64, device=META)
    assert reads_of(lambda: edited(logits, edits, last)) == []
