"""What requests say about particular tokens, kept on the device for as long as the requests run.

A request has a slot. The host writes there when it comes, and when what it may choose changes; tokens are counted where
they are sampled, so that penalties need no look at the device either.
"""

from collections.abc import Collection, Sequence

import numpy as np
import torch
import triton
from torch import Tensor

from servery.engine.cuda.kernels.adjusting import adjust, count_tokens
from servery.engine.request import SamplingParams
from servery.engine.structure.mask import Mask

_WORD = 32
_BLOCK = 1024


class LogitRules:
    """Bias, penalties and allowed tokens of up to `capacity` requests over `vocab_size` tokens.

    Arrays of the vocabulary's size are made when the first request needs them: four bytes for each slot and token for
    biases, and as many for counts.
    """

    def __init__(self, capacity: int, vocab_size: int, device: torch.device) -> None:
        self._size = (capacity, vocab_size)
        self._device = device
        self._knobs = torch.tensor([1.0, 0.0, 0.0], device=device).repeat(capacity, 1).t().contiguous()
        self._biases: Tensor | None = None
        self._counts: Tensor | None = None
        self._seen: Tensor | None = None
        self._allowed: Tensor | None = None
        self._users: dict[str, set[int]] = {"biases": set(), "penalties": set(), "masks": set()}

    @property
    def is_needed(self) -> bool:
        """Whether any request changes its logits."""
        return any(self._users.values())

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        parts = (self._knobs, self._biases, self._counts, self._seen, self._allowed)
        return sum(part.nbytes for part in parts if part is not None)

    def put(self, slot: int, params: SamplingParams, prompt: Sequence[int], output: Sequence[int] = ()) -> None:
        """Give a slot to a request that has `output` already; what another left there is gone."""
        self._put_bias(slot, params.logit_bias)
        self._put_penalties(slot, params, prompt, output)
        self.allow(slot, params.allowed_token_ids or None)

    def allow(self, slot: int, allowed: Mask | Collection[int] | None, barred: Collection[int] = ()) -> None:
        """Let a slot choose among `allowed` tokens (None: all), bits or ids, but not those `barred`."""
        if not self._uses("masks", slot, allowed is not None or bool(barred)):
            return
        if self._allowed is None:
            self._allowed = self._words().fill_(-1)
        if isinstance(allowed, np.ndarray):
            bits = np.array(allowed[: self._allowed.shape[1]])
        else:
            bits = np.full(self._allowed.shape[1], -1 if allowed is None else 0, np.int32)
            np.bitwise_or.at(bits, *_bits(allowed or ()))
        words, ones = _bits(barred)
        np.bitwise_and.at(bits, words, ~ones)
        self._allowed[slot].copy_(torch.from_numpy(bits), non_blocking=True)

    def count(self, slots: Tensor, tokens: Tensor) -> None:
        """Tokens int64 [rows] were sampled for `slots` int64 [rows], which differ; -1 is none."""
        if self._counts is None or self._seen is None:
            return
        count_tokens[(len(tokens),)](
            self._counts, self._seen, slots, tokens, self._counts.stride(0), self._seen.stride(0), num_warps=1
        )

    def apply(self, logits: Tensor, slots: Tensor) -> Tensor:
        """What is sampled from, float32 [rows, V], for `logits` of that shape, which stay; themselves if nobody asks."""
        if not self.is_needed:
            return logits
        out = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
        adjust[(len(logits), triton.cdiv(logits.shape[1], _BLOCK))](
            out,
            logits,
            slots,
            *(out if each is None else each for each in (self._biases, self._counts, self._seen)),
            *self._knobs.unbind(0),
            out if self._allowed is None else self._allowed,
            logits.stride(0),
            self._size[1],
            triton.cdiv(self._size[1], _WORD),
            V=self._size[1],
            BLOCK=_BLOCK,
            HAS_BIASES=bool(self._users["biases"]),
            HAS_PENALTIES=bool(self._users["penalties"]),
            HAS_MASKS=bool(self._users["masks"]),
        )
        return out

    def _uses(self, rule: str, slot: int, is_used: bool) -> bool:
        """Note whether a slot has a rule; whether there is anything to write, were it only to take back."""
        had = slot in self._users[rule]
        (self._users[rule].add if is_used else self._users[rule].discard)(slot)
        return is_used or had

    def _put_bias(self, slot: int, bias: dict[int, float]) -> None:
        if not self._uses("biases", slot, bool(bias)):
            return
        if self._biases is None:
            self._biases = torch.zeros(self._size, device=self._device)
        row = self._biases[slot].zero_()
        if bias:
            at = torch.tensor(list(bias), device=self._device)
            row[at] = torch.tensor(list(bias.values()), device=self._device)

    def _put_penalties(self, slot: int, params: SamplingParams, prompt: Sequence[int], output: Sequence[int]) -> None:
        knobs = (params.repetition_penalty, params.frequency_penalty, params.presence_penalty)
        if not self._uses("penalties", slot, params.has_penalties):
            return
        self._knobs[:, slot] = torch.tensor(knobs, device=self._device)
        if self._counts is None or self._seen is None:
            self._counts = torch.zeros(self._size, dtype=torch.int32, device=self._device)
            self._seen = self._words()
        counts = np.bincount(np.array(output, np.int64), minlength=self._size[1]).astype(np.int32)
        seen = np.zeros(self._seen.shape[1], np.int32)
        np.bitwise_or.at(seen, *_bits([*prompt, *output]))
        self._counts[slot].copy_(torch.from_numpy(counts))
        self._seen[slot].copy_(torch.from_numpy(seen))

    def _words(self) -> Tensor:
        words = triton.cdiv(self._size[1], _WORD)
        return torch.zeros(self._size[0], words, dtype=torch.int32, device=self._device)


def top_logprobs(logits: Tensor, token_ids: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row of `logits` [R, V] the log probability of its token, and ids and log probabilities of the `top` largest.

    Of equal ones the lowest ids come first: what is sorted has the id behind the value. Nothing waits for the device.
    """
    logprobs = logits.float().log_softmax(dim=-1)
    bits = (logprobs + 0.0).view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    behind = 0xFFFFFFFF - torch.arange(logits.shape[1], device=logits.device)
    best = (ordered.long() * 2**32 + behind).topk(min(top, logits.shape[1]), dim=-1).values
    ids = 0xFFFFFFFF - (best & 0xFFFFFFFF)
    chosen = logprobs.gather(1, token_ids.clamp(min=0)[:, None])[:, 0]
    return chosen, ids, logprobs.gather(1, ids)


def _bits(token_ids: Collection[int]) -> tuple[np.ndarray, np.ndarray]:
    """The word of each token, and its bit there."""
    ids = np.fromiter(token_ids, np.int64, len(token_ids))
    return ids // _WORD, np.left_shift(np.uint32(1), (ids % _WORD).astype(np.uint32)).view(np.int32)
