"""Which tokens each row of a step may choose: computed on other cores while the model computes the logits."""

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter

import llguidance
import numpy as np
from llguidance.numpy import fill_next_token_bitmask_par, fill_next_token_bitmask_par_with_draft_tokens

from servery.engine.structure.follower import Follower, Plan, Reasoned
from servery.engine.structure.grammar import told_of
from servery.engine.structure.mask import Mask
from servery.engine.structure.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class MaskRequest:
    """Masks for one completion: its prompt and tokens so far, and the drafts that a step verifies."""

    follower: Follower
    tokens: Sequence[int]
    drafts: Sequence[int] = field(default_factory=list)
    may_end: bool = True


class MaskFiller:
    """Fills masks in the background; the library lets go of the interpreter meanwhile and uses several cores."""

    def __init__(self, threads: int | None = None) -> None:
        self._thread = ThreadPoolExecutor(1, "token-masks")
        self._executor = llguidance.LLExecutor(threads)
        self.masks = 0
        self.seconds = 0.0

    def start(self, vocabulary: Vocabulary, requests: Sequence[MaskRequest]) -> "Future[list[list[Mask | None]]]":
        """For each request one mask for the row after its tokens and one for each draft; None is a free row."""
        return self._thread.submit(self._fill, vocabulary, requests)

    def _fill(self, vocabulary: Vocabulary, requests: Sequence[MaskRequest]) -> "list[list[Mask | None]]":
        started = perf_counter()
        masks = fill_masks(self._executor, vocabulary, requests)
        self.masks += sum(mask is not None for rows in masks for mask in rows)
        self.seconds += perf_counter() - started
        return masks


def fill_masks(
    executor: llguidance.LLExecutor, vocabulary: Vocabulary, requests: Sequence[MaskRequest]
) -> "list[list[Mask | None]]":
    """The masks of every request, row by row; where the constraint has failed, nothing is allowed."""
    for request in requests:
        request.follower.catch_up(request.tokens)
    plans = [request.follower.plan(request.drafts) for request in requests]
    starts = np.cumsum([0, *(1 + len(request.drafts) for request in requests)]).tolist()
    bits = np.zeros((starts[-1], vocabulary.num_words), dtype=np.int32)
    single, several = [], []
    for request, plan, start in zip(requests, plans, starts, strict=False):
        follower, begin = request.follower, len(plan.reasoned)
        if follower.error is None and not follower.is_lost and begin <= len(request.drafts):
            matcher = follower.own_matcher()
            if plan.drafts:
                several.append((matcher, start + begin, plan.drafts))
            else:
                single.append((matcher, start + begin))
    if single:
        fill_next_token_bitmask_par(executor, single, bits)
    if several:
        fill_next_token_bitmask_par_with_draft_tokens(executor, several, bits)
    return [
        _rows(vocabulary, request, plan, bits[start : start + 1 + len(request.drafts)])
        for request, plan, start in zip(requests, plans, starts, strict=False)
    ]


def _rows(vocabulary: Vocabulary, request: MaskRequest, plan: Plan, bits: Mask) -> "list[Mask | None]":
    follower, begin = request.follower, len(plan.reasoned)
    if begin < len(bits) and follower.error is None and follower.matcher.is_error():
        follower.error = told_of(follower.matcher.get_error().partition("\n")[0])
    if follower.error is not None:
        bits[:] = 0
        return list(bits)
    for row in bits[begin:]:
        _set_end(vocabulary, row, may_end=request.may_end)
    if begin < len(bits):
        _allow(bits[begin], plan.besides)
    may_end = follower.is_free or not request.may_end
    return [
        *(_reasoned(vocabulary, row, bits[at], may_end=may_end) for at, row in enumerate(plan.reasoned)),
        *bits[begin:],
    ]


def _reasoned(vocabulary: Vocabulary, row: Reasoned, bits: Mask, *, may_end: bool) -> "Mask | None":
    """A row inside the reasoning; an answer that has to follow its constraint must not end there."""
    if row.forced is not None:
        _allow(bits, [row.forced])
        return bits
    forbidden = [*row.forbidden, *(() if may_end else vocabulary.end_ids)]
    if not forbidden:
        return None
    bits[:] = -1
    for token_id in forbidden:
        bits.view(np.uint32)[token_id // 32] &= ~np.uint32(1 << token_id % 32)
    return bits


def _set_end(vocabulary: Vocabulary, row: Mask, *, may_end: bool) -> None:
    """Put the model's end tokens in place of the grammar's."""
    word, bit = divmod(vocabulary.end, 32)
    is_end_allowed = bool(row.view(np.uint32)[word] >> np.uint32(bit) & np.uint32(1))
    if is_end_allowed and may_end:
        _allow(row, vocabulary.end_ids)


def _allow(row: Mask, token_ids: Iterable[int]) -> None:
    for token_id in token_ids:
        row.view(np.uint32)[token_id // 32] |= np.uint32(1 << token_id % 32)
