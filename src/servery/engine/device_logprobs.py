"""How likely tokens were, computed where the logits are and read by the host when it has to."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from servery.engine.request import TokenLogprobs

_LOGPROB_ROWS = 64  # rows computed at a time: what is sorted takes twice as much as the logits
_LOWEST_BITS = 0xFFFFFFFF


class LikelyTokens(NamedTuple):
    """Of R rows: `chosen` float32 [R] is the log probability of its token, `ids` and `values` [R, top] are of the likeliest."""

    chosen: Tensor
    ids: Tensor
    values: Tensor


def likely_tokens(logits: Tensor, token_ids: Tensor, top: int) -> LikelyTokens:
    """For `logits` [R, V] and each row's token int64 [R] (negative: none). Nothing waits for the device.

    The likeliest come first, of equal ones the lowest ids: what is sorted has the id behind the value.
    """
    parts = [
        _likely(logits[start : start + _LOGPROB_ROWS], token_ids[start : start + _LOGPROB_ROWS], top)
        for start in range(0, len(logits), _LOGPROB_ROWS)
    ]
    return parts[0] if len(parts) == 1 else LikelyTokens(*(torch.cat(each) for each in zip(*parts, strict=True)))


def told(likely: LikelyTokens, token_ids: Sequence[int], tops: Sequence[int]) -> list[TokenLogprobs]:
    """What each row's request is told, of as many tokens as it wants; impossible ones (-inf) are left out."""
    rows = zip(token_ids, tops, *(each.tolist() for each in likely), strict=True)
    return [
        TokenLogprobs(
            token_id, chosen, [pair for pair in zip(ids[:top], values[:top], strict=True) if pair[1] > -torch.inf]
        )
        for token_id, top, chosen, ids, values in rows
    ]


def _likely(logits: Tensor, token_ids: Tensor, top: int) -> LikelyTokens:
    logprobs = logits.float().log_softmax(dim=-1)
    bits = (logprobs + 0.0).view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # as large, seen as whole numbers, as the values are
    behind = _LOWEST_BITS - torch.arange(logits.shape[1], device=logits.device)
    count = min(top, logits.shape[1])
    best = (ordered.long() * 2**32 + behind).topk(max(count, 1), dim=-1).values[:, :count]
    ids = _LOWEST_BITS - (best & _LOWEST_BITS)
    chosen = logprobs.gather(1, token_ids.clamp(min=0)[:, None])[:, 0]
    return LikelyTokens(chosen, ids, logprobs.gather(1, ids))
