"""How a draft model draws what it proposes, so that as much as possible of it stands."""

from collections.abc import Sequence

import torch
from torch import Tensor

from servery.engine.randomness import Use, seed_for
from servery.engine.request import SamplingParams
from servery.engine.sampler import SamplingRow
from servery.engine.sampling import TORCH, Sampler


def is_coupled(params: SamplingParams) -> bool:
    """Whether a request's drafts are judged by coupling, which makes its text the same with and without them.

    Greedy requests, and those with a seed: who sets one wants the same text again.
    """
    return params.is_greedy or params.seed is not None


def draw_proposals(logits: Tensor, rows: Sequence[SamplingRow], sampler: Sampler = TORCH) -> list[int]:
    """A draft for each row of the draft model's `logits` [R, V], after the row's own warping.

    Where drafts are judged by coupling, the draft model runs the race that the target will run, with the same numbers:
    if the two agree roughly, the winner is mostly the same (Daliri et al., arXiv 2408.07978). Else it has numbers of its
    own. A row without usable logits drafts token 0.
    """
    own = [row if is_coupled(row.params) else row._replace(seed=seed_for(row.seed, Use.DRAFT)) for row in rows]
    return [max(drawn.token_id, 0) for drawn in sampler.draw(logits.float(), own)]


def proposal_probs(logits: Tensor, rows: Sequence[SamplingRow], sampler: Sampler = TORCH) -> Tensor:
    """The distributions [R, V] that `draw_proposals` drew from; all of token 0 where logits are unusable."""
    probs = sampler.warped_probs(logits, rows)
    is_unusable = probs.isnan().any(dim=-1, keepdim=True)
    fallback = torch.zeros_like(probs)
    fallback[:, 0] = 1.0
    return torch.where(is_unusable, fallback, probs)
