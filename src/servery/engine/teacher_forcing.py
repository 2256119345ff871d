"""How two models see the same text: the probability each gives to every token of it, given all tokens before.

Both compute the whole text in one go over their own KV cache, as they would while generating it, so weights and cache
count with the precision they are held in. Distributions are over the whole vocabulary and are compared in float64, a
bounded number of rows at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from servery.engine.batch import Batch
from servery.engine.core import EngineCore
from servery.engine.errors import RequestFailed

# Positions computed together, and numbers in one piece of logits: activations and logits stay within some 10 MiB each.
_STEP_TOKENS = 2048
_PIECE_NUMBERS = 1 << 21


@dataclass(frozen=True, slots=True)
class Passage:
    """A text of which the tokens from `first` (1 or more) on are scored; those before are what they follow."""

    tokens: tuple[int, ...]
    first: int

    @property
    def num_scored(self) -> int:
        """How many tokens are scored."""
        return len(self.tokens) - self.first


@dataclass(frozen=True, slots=True)
class PassageScores:
    """Of each scored token (in nats): the surprise of either model, -log p(token); the Kullback-Leibler divergence
    of the candidate's distribution from the baseline's at its place, sum_t p(t) log(p(t) / q(t)); whether both find
    the same token most likely.
    """

    baseline: list[float]
    candidate: list[float]
    divergence: list[float]
    agrees: list[bool]


@torch.inference_mode()
def score(baseline: EngineCore, candidate: EngineCore, passages: Sequence[Passage]) -> Iterator[list[PassageScores]]:
    """The scores of all passages in their order, as many at a time as are computed together.

    Both engines must be idle: their caches are written. A passage must fit into both contexts. Raises `RequestFailed`
    when a model's logits are not finite.
    """
    cores = (baseline, candidate)
    for group in _groups(passages, cores):
        rows = [_hidden(core, group) for core in cores]
        targets = torch.tensor([token for one in group for token in one.tokens[one.first :]])
        yield _split(_compare(cores, rows, targets), group)


def _groups(passages: Sequence[Passage], cores: Sequence[EngineCore]) -> Iterator[list[Passage]]:
    """Passages in order, together as long as they are one step and both caches hold them; a long one is alone."""
    group: list[Passage] = []
    for passage in passages:
        if group and not _is_one_step([*group, passage], cores):
            yield group
            group = []
        group.append(passage)
    if group:
        yield group


def _is_one_step(group: Sequence[Passage], cores: Sequence[EngineCore]) -> bool:
    is_short = sum(len(one.tokens) for one in group) <= _STEP_TOKENS
    return is_short and all(_blocks(core, group)[-1].stop <= core.info.num_blocks for core in cores)


def _blocks(core: EngineCore, group: Sequence[Passage]) -> list[range]:
    """Blocks of the cache for each passage, from the first on."""
    ends = list(accumulate(-(-len(one.tokens) // core.info.block_size) for one in group))
    return [range(start, end) for start, end in pairwise([0, *ends])]


def _hidden(core: EngineCore, group: Sequence[Passage]) -> Tensor:
    """Final hidden states [scored, hidden] of the positions that predict the scored tokens, passage after passage."""
    blocks = _blocks(core, group)
    if len(group) == 1:
        return _in_chunks(core, group[0], blocks[0])
    rows = [(one.tokens, 0, ids) for one, ids in zip(group, blocks, strict=True)]
    hidden = core.model.forward(Batch.build(rows, core.info.block_size), core.cache)
    parts = torch.split(hidden, [len(one.tokens) for one in group])
    return torch.cat([part[one.first - 1 : -1] for part, one in zip(parts, group, strict=True)])


def _in_chunks(core: EngineCore, passage: Passage, blocks: Sequence[int]) -> Tensor:
    parts = []
    for start in range(0, len(passage.tokens), _STEP_TOKENS):
        batch = Batch.build([(passage.tokens[start : start + _STEP_TOKENS], start, blocks)], core.info.block_size)
        parts.append(core.model.forward(batch, core.cache)[max(0, passage.first - 1 - start) :])
    return torch.cat(parts)[:-1]


def _compare(cores: Sequence[EngineCore], rows: Sequence[Tensor], targets: Tensor) -> PassageScores:
    size = max(1, _PIECE_NUMBERS // cores[0].info.vocab_size)
    found = PassageScores([], [], [], [])
    for at in range(0, len(targets), size):
        piece = targets[at : at + size].unsqueeze(1)
        p, q = (_log_probabilities(core, part[at : at + size]) for core, part in zip(cores, rows, strict=True))
        found.baseline.extend((-p.gather(1, piece)).flatten().tolist())
        found.candidate.extend((-q.gather(1, piece)).flatten().tolist())
        found.divergence.extend((p.exp() * (p - q)).sum(1).clamp_(min=0.0).tolist())
        found.agrees.extend((p.argmax(1) == q.argmax(1)).tolist())
    return found


def _log_probabilities(core: EngineCore, hidden: Tensor) -> Tensor:
    """float64 [rows, vocab_size]."""
    logits = core.model.logits(hidden).cpu()
    if not logits.isfinite().all():
        raise RequestFailed("a model's logits are not finite; its weights or its precision do not fit this text.")
    return logits.double().log_softmax(1)


def _split(found: PassageScores, group: Sequence[Passage]) -> list[PassageScores]:
    ends = accumulate(one.num_scored for one in group)
    spans = [slice(start, end) for start, end in pairwise([0, *ends])]
    return [PassageScores(found.baseline[s], found.candidate[s], found.divergence[s], found.agrees[s]) for s in spans]
