"""Log probabilities that a device computes are the host's, in their order, and nobody waits for them."""

import pytest
import torch

from servery.engine.device_logprobs import likely_tokens, told
from servery.engine.sampler import token_logprobs
from tests.engine.one_device import META, reads_of

V = 70


@pytest.mark.parametrize("rows", [4, 130])
@pytest.mark.parametrize("top", [0, 3, 200])
def test_log_probabilities_are_the_hosts_in_their_order(top: int, rows: int) -> None:
    """Many logits are equal, and some are of tokens that cannot be; more rows than are computed at a time."""
    logits, tokens = torch.randn(rows, V).round(), [(9 * row) % V for row in range(rows)]
    logits[1, 5:9] = float("-inf")
    tops = [max(0, top - row % 2) for row in range(rows)]
    likely = likely_tokens(logits, torch.tensor(tokens), top)
    assert told(likely, tokens, tops) == token_logprobs(logits, tokens, tops)


def test_nothing_waits_for_the_device() -> None:
    logits, tokens = torch.empty(3, V, device=META), torch.empty(3, dtype=torch.int64, device=META)
    assert reads_of(lambda: likely_tokens(logits, tokens, 5)) == []
