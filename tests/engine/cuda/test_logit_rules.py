"""Rules that live on the device change logits as the host's sampler does."""

import pytest
import torch

from servery.engine.cuda.logit_rules import LogitRules, top_logprobs
from servery.engine.request import SamplingParams
from servery.engine.sampler import SamplingRow, _adjust, token_logprobs

V = 70
PROMPT = [3, 3, 40, 69]
PARAMS = [
    SamplingParams(),
    SamplingParams(logit_bias={0: 2.5, 69: -100.0}),
    SamplingParams(repetition_penalty=1.3, frequency_penalty=0.2, presence_penalty=-0.4),
    SamplingParams(allowed_token_ids=(1, 33, 69)),
    SamplingParams(frequency_penalty=1.5, logit_bias={7: 1.0}),
]


def row(params: SamplingParams, output: list[int], **changes) -> SamplingRow:
    return SamplingRow(params, 0, 0, len(PROMPT), [*PROMPT, *output], **changes)


def test_every_rule_is_as_the_hosts() -> None:
    """Rows lie in other slots than they are asked for in, and have generated tokens since they came."""
    rules, logits = LogitRules(8, V, torch.device("cpu")), torch.randn(5, V)
    slots = torch.tensor([6, 0, 3, 7, 1])
    outputs = [[5], [7], [40], [1], [7]]
    for slot, params, output in zip(slots.tolist(), PARAMS, outputs, strict=True):
        rules.put(slot, params, PROMPT, output)
    for sampled in ([7, 7, 7, 33, 7], [8, -1, 7, 69, 7]):
        rules.count(slots, torch.tensor(sampled))
        outputs = [[*output, token] if token >= 0 else output for output, token in zip(outputs, sampled, strict=True)]
    expected = _adjust(logits, [row(params, output) for params, output in zip(PARAMS, outputs, strict=True)])
    torch.testing.assert_close(rules.apply(logits, slots), expected, rtol=1e-6, atol=1e-6)


def test_masks_and_barred_tokens_leave_what_they_allow() -> None:
    rules, logits = LogitRules(2, V, torch.device("cpu")), torch.randn(2, V)
    mask = torch.tensor([5, -(2**31), 3], dtype=torch.int32).numpy()
    rules.allow(0, mask)
    rules.allow(1, None, barred=[2, 69])
    rows = [row(SamplingParams(), [], allowed=mask), row(SamplingParams(), [], barred=[2, 69])]
    assert torch.equal(rules.apply(logits, torch.arange(2)), _adjust(logits, rows))


def test_a_slot_keeps_nothing_of_who_had_it_before() -> None:
    rules, logits = LogitRules(2, V, torch.device("cpu")), torch.randn(1, V)
    for params in PARAMS[1:]:
        rules.put(1, params, PROMPT, [5, 6])
    rules.put(1, PARAMS[0], [1])
    rules.put(0, PARAMS[1], PROMPT)  # others still have rules
    assert torch.equal(rules.apply(logits, torch.tensor([1])), logits)


def test_without_a_rule_nothing_is_done_or_held() -> None:
    rules, logits = LogitRules(4, V, torch.device("cpu")), torch.randn(1, V)
    rules.put(2, SamplingParams(temperature=0.3), PROMPT)
    assert not rules.is_needed
    assert rules.apply(logits, torch.tensor([2])) is logits
    assert rules.nbytes == 4 * 3 * 4


@pytest.mark.parametrize("top", [0, 3, 200])
def test_log_probabilities_are_the_hosts_in_their_order(top: int) -> None:
    logits, tokens = torch.randn(4, V).round(), [0, 9, 69, 30]
    logits[1, 5:9] = float("-inf")
    chosen, ids, values = top_logprobs(logits, torch.tensor(tokens), top)
    for at, expected in enumerate(token_logprobs(logits, tokens, min(top, V))):
        pairs = [pair for pair in zip(ids[at].tolist(), values[at].tolist(), strict=True) if pair[1] > float("-inf")]
        assert (chosen[at].item(), pairs) == (expected.logprob, expected.top)
