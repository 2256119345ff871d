"""What a request says about particular tokens: logit_bias and the three penalties, for a whole batch at once."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from servery.engine.request import PENDING_TOKEN, SamplingParams


class TokenHistory:
    """The distinct tokens of one sequence and how often each was generated, kept up to date in O(new tokens).

    A sequence that is sampled many times keeps one; prompt tokens are held only when the repetition penalty needs
    them. `tokens` may only grow between calls of `catch_up`; a newest one that is not known yet is counted when it is.
    """

    def __init__(self, params: SamplingParams, prompt_len: int) -> None:
        self._prompt_len = prompt_len
        self._seen = 0 if params.repetition_penalty != 1.0 else prompt_len
        self._slots: dict[int, int] = {}  # token id -> index into the arrays
        self._ids = np.empty(64, dtype=np.int64)
        self._counts = np.empty(64, dtype=np.float32)

    def catch_up(self, tokens: Sequence[int]) -> None:
        """Count the tokens that were appended since the last call."""
        known = len(tokens) - (len(tokens) > 0 and tokens[-1] == PENDING_TOKEN)
        if known < self._seen:
            raise ValueError(f"history has counted {self._seen} tokens, the sequence has {known}: it shrank.")
        for position in range(self._seen, known):
            slot = self._slot(tokens[position])
            if position >= self._prompt_len:
                self._counts[slot] += 1
        self._seen = known

    def followed_by(self, tokens: Sequence[int]) -> "TokenHistory":
        """A copy that has counted all of `tokens`, which go on from those counted here; this one stays as it is."""
        further = copy.copy(self)
        vars(further).update(_slots=self._slots.copy(), _ids=self._ids.copy(), _counts=self._counts.copy())
        further.catch_up(tokens)
        return further

    def _slot(self, token_id: int) -> int:
        slot = self._slots.get(token_id)
        if slot is None:
            slot = self._slots[token_id] = len(self._slots)
            if slot == len(self._ids):  # full: double, so that appending stays O(1) amortised
                self._ids = np.resize(self._ids, 2 * slot)
                self._counts = np.resize(self._counts, 2 * slot)
            self._ids[slot], self._counts[slot] = token_id, 0
        return slot

    @property
    def ids(self) -> NDArray[np.int64]:
        """The distinct token ids, in order of first appearance."""
        return self._ids[: len(self._slots)]

    @property
    def counts(self) -> NDArray[np.float32]:
        """How often each of `ids` was generated; 0 for one that only the prompt has."""
        return self._counts[: len(self._slots)]


def add_bias(logits: Tensor, biases: Sequence[tuple[int, dict[int, float]]]) -> None:
    """Add to `logits` [R, V], in place, each (row, {token id: bias})."""
    vocab_size = logits.shape[1]
    flat = [row * vocab_size + token_id for row, bias in biases for token_id in bias]
    values = [value for _, bias in biases for value in bias.values()]
    at = torch.tensor(flat, dtype=torch.int64, device=logits.device)
    logits.view(-1).index_add_(0, at, torch.tensor(values, dtype=logits.dtype, device=logits.device))


def penalise(logits: Tensor, histories: Sequence[tuple[int, SamplingParams, TokenHistory]]) -> None:
    """Apply to `logits` [R, V], in place, the penalties of each (row, params, tokens so far).

    Repetition (Keskar et al., CTRL, 2019): the logit of every token in prompt or output is divided by the penalty when
    positive, else multiplied. Then frequency and presence (OpenAI): for every generated token subtract
    count * frequency + presence.
    """
    lengths = [len(history.ids) for _, _, history in histories]
    flat = np.concatenate([history.ids + row * logits.shape[1] for row, _, history in histories])
    counts = np.concatenate([history.counts for _, _, history in histories])
    knobs = [(p.repetition_penalty, p.frequency_penalty, p.presence_penalty) for _, p, _ in histories]
    repetition, frequency, presence = np.repeat(np.array(knobs, dtype=np.float32), lengths, axis=0).T
    lowered_by = torch.from_numpy(frequency * counts + presence * (counts > 0)).to(logits.device)
    factor = torch.from_numpy(repetition.copy()).to(logits.device)
    at = torch.from_numpy(flat).to(logits.device)
    chosen = logits.view(-1)[at]
    logits.view(-1)[at] = torch.where(chosen > 0, chosen / factor, chosen * factor) - lowered_by
