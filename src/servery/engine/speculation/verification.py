"""Which drafts stand: the target's own rows decide, so that the text is distributed as without speculation.

A draft is checked in one of two ways.

Coupling, for greedy and seeded requests and for drafts that no chance chose. Every row draws its token as it would
without drafts: a function of (seed, position, logits) alone. A draft stands if it is that very token. The text is then
the same whatever was drafted. For a draft chosen without chance, x, this is also what rejection sampling comes to: x
stands with probability p(x), and what is drawn otherwise is distributed as p without x.

Rejection sampling (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318), for drafts that a model drew from
a distribution q by chance of its own: x stands with probability min(1, p(x) / q(x)), else a token is drawn from the
positive part of p - q. It accepts more than coupling would: the mass that p and q share.

p is the distribution after all warping. Where a row's penalties count tokens, the drafts before it are among them.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from servery.engine.randomness import Use, seed_for, uniforms
from servery.engine.request import TokenLogprobs
from servery.engine.sampler import Sampled, SamplingRow, race, sampled_logprobs
from servery.engine.sampling import TORCH, Sampler


class Check(NamedTuple):
    """Drafts of one sequence and the rows that judge them: one for each draft and one for the token after the last.

    `proposal` [drafts, V] are the distributions that a draft model drew them from, by chance of its own; None for
    drafts that are to be judged by coupling.
    """

    rows: Sequence[SamplingRow]
    drafts: Sequence[int]
    proposal: Tensor | None = None


class Verified(NamedTuple):
    """The drafts that stand, then one token of the target's; log probabilities if asked for, one for each.

    When `error` is set, the first row's logits were unusable and there are no tokens. Unusable logits after a draft
    that stands end the list before them: the next step meets them again.
    """

    token_ids: list[int]
    logprobs: list[TokenLogprobs]
    error: str | None = None


class _Judged(NamedTuple):
    """How many drafts rejection sampling accepted, and what replaces the next; None if the target draws it."""

    accepted: int
    replacement: int | None


def verify(logits: Tensor, checks: Sequence[Check], sampler: Sampler = TORCH) -> list[Verified]:
    """Judge every sequence's drafts by its rows of `logits` [R, V], which are those of all `checks` in their order."""
    rows = [row for check in checks for row in check.rows]
    if len(rows) == len(checks):
        return [_sampled(one) for one in sampler.sample(logits, rows)]
    logits = logits.float()
    starts = [0, *accumulate(len(check.rows) for check in checks)]
    judged = _reject(logits, checks, starts, sampler)
    wanted = [row for at, check in enumerate(checks) for row in _rows_to_draw(check, starts[at], judged.get(at))]
    index = torch.tensor(wanted, dtype=torch.int64, device=logits.device)
    drawn = dict(zip(wanted, sampler.draw(logits[index], [rows[row] for row in wanted]), strict=True))
    verified = [_text(check, starts[at], judged.get(at), drawn) for at, check in enumerate(checks)]
    return _with_logprobs(verified, starts, logits, rows)


def agreed(drafts: Sequence[Sequence[int]], drawn: Sequence[int]) -> list[list[int]]:
    """For each sequence the drafts that stand and the token after them; `drawn` are those of its rows, end to end."""
    texts, at = [], 0
    for some in drafts:
        stood = 0
        while stood < len(some) and drawn[at + stood] == some[stood]:
            stood += 1
        texts.append(list(drawn[at : at + stood + 1]))
        at += len(some) + 1
    return texts


def _sampled(one: Sampled) -> Verified:
    if one.error is not None:
        return Verified([], [], one.error)
    return Verified([one.token_id], [one.logprobs] if one.logprobs is not None else [])


def _rows_to_draw(check: Check, start: int, verdict: _Judged | None) -> Sequence[int]:
    """The rows at which the target has to draw: all for coupling, else at most one."""
    if verdict is None:
        return range(start, start + len(check.rows))
    return [start + verdict.accepted] if verdict.replacement is None else []


def _text(check: Check, start: int, verdict: _Judged | None, drawn: Mapping[int, Sampled]) -> Verified:
    """The drafts that stand and the token after them; `drawn` has the target's tokens by row."""
    if verdict is None:
        verdict = _Judged(_agreeing(check, [drawn[start + at].token_id for at in range(len(check.drafts))]), None)
    token_ids = list(check.drafts[: verdict.accepted])
    if verdict.replacement is not None:
        return Verified([*token_ids, verdict.replacement], [])
    last = drawn[start + verdict.accepted]
    if last.error is None:
        return Verified([*token_ids, last.token_id], [])
    return Verified(token_ids, [], None if token_ids else last.error)


def _with_logprobs(
    verified: list[Verified], starts: Sequence[int], logits: Tensor, rows: Sequence[SamplingRow]
) -> list[Verified]:
    """Add what each token's row asks for; the tokens of a sequence are of its first rows."""
    kept = [start + at for start, one in zip(starts, verified, strict=False) for at in range(len(one.token_ids))]
    if all(rows[row].params.logprobs is None for row in kept):
        return verified
    token_ids = [token_id for one in verified for token_id in one.token_ids]
    index = torch.tensor(kept, dtype=torch.int64, device=logits.device)
    told = iter(sampled_logprobs(logits[index], [rows[row] for row in kept], token_ids))
    return [
        one._replace(logprobs=[logprobs for _ in one.token_ids if (logprobs := next(told)) is not None])
        for one in verified
    ]


def _agreeing(check: Check, drawn: Sequence[int]) -> int:
    """How many drafts, from the first, are what the target drew; a row without usable logits has drawn -1."""
    for at, draft in enumerate(check.drafts):
        if drawn[at] != draft:
            return at
    return len(check.drafts)


def _reject(logits: Tensor, checks: Sequence[Check], starts: Sequence[int], sampler: Sampler) -> dict[int, _Judged]:
    """The verdict of rejection sampling for the checks, by number, that have a proposal."""
    drawn = [at for at, check in enumerate(checks) if check.proposal is not None]
    if not drawn:
        return {}
    rows = [row for at in drawn for row in checks[at].rows[:-1]]
    drafts = [draft for at in drawn for draft in checks[at].drafts]
    index = torch.tensor([starts[at] + row for at in drawn for row in range(len(checks[at].drafts))])
    target = sampler.warped_probs(logits[index.to(logits.device)], rows)
    proposal = torch.cat([probs for at in drawn if (probs := checks[at].proposal) is not None])
    stands = _stands(target, proposal, drafts, rows)
    judged, begin, refused = {}, 0, {}
    for at in drawn:
        end = begin + len(checks[at].drafts)
        accepted = next((row - begin for row in range(begin, end) if stands[row] is not True), end - begin)
        judged[at] = _Judged(accepted, None)
        if accepted < end - begin and stands[begin + accepted] is False:
            refused[at] = begin + accepted
        begin = end
    for at, token_id in zip(refused, _residual(target, proposal, rows, list(refused.values())), strict=True):
        judged[at] = _Judged(judged[at].accepted, token_id)
    return judged


def _stands(target: Tensor, proposal: Tensor, drafts: Sequence[int], rows: Sequence[SamplingRow]) -> list[bool | None]:
    """For each draft, with `target` and `proposal` [drafts, V]: whether it stands; None where p is not a number."""
    index = torch.tensor(drafts, dtype=torch.int64, device=target.device)[:, None]
    p, q = target.gather(1, index)[:, 0].tolist(), proposal.gather(1, index)[:, 0].tolist()
    seeds = [seed_for(row.seed, Use.ACCEPT) for row in rows]
    chances = uniforms(seeds, [row.position for row in rows]).tolist()
    return [None if math.isnan(p[at]) else chances[at] * q[at] < p[at] for at in range(len(drafts))]


def _residual(target: Tensor, proposal: Tensor, rows: Sequence[SamplingRow], refused: Sequence[int]) -> list[int]:
    """A token from the positive part of target - proposal [rows, V] for each row that is `refused`."""
    if not refused:
        return []
    index = torch.tensor(refused, dtype=torch.int64, device=target.device)
    weights = (target[index] - proposal[index]).clamp_(min=0)
    is_equal = ~weights.any(dim=-1, keepdim=True)  # nothing but rounding tells the two apart
    weights = torch.where(is_equal, target[index], weights)
    racing = [rows[row]._replace(seed=seed_for(rows[row].seed, Use.RESIDUAL)) for row in refused]
    return race(weights, racing, None, target.shape[1])
