"""What decides the tokens of a step, as the native sampler reads it."""

from collections.abc import Iterable, Sequence
from weakref import WeakKeyDictionary, ref

import numpy as np
from numpy.typing import NDArray

from servery.engine import request
from servery.engine.native.library import MOST_TOPS, ChoiceStruct
from servery.engine.penalties import TokenHistory
from servery.engine.request import SamplingParams
from servery.engine.sampler import SamplingRow

CHOICE = np.dtype(ChoiceStruct)
_SEEDS = 2**64 - 1
_COLDEST = 1e-30  # as in sampler.py


class Choices:
    """An array [R] of `NativeChoice` for `rows`, and what it points to; `tops` are the log probabilities asked for."""

    __slots__ = ("_arrays", "array")

    def __init__(self, rows: Sequence[SamplingRow], tops: Sequence[int]) -> None:
        self._arrays: list[NDArray[np.generic]] = []
        self.array = np.array([self._fields(row, top) for row, top in zip(rows, tops, strict=True)], CHOICE)

    def _fields(self, row: SamplingRow, logprobs: int) -> tuple[float, ...]:
        params = row.params
        seen = counts = num_seen = biases = mask = 0
        if params.has_penalties:
            history = row.history or TokenHistory(params, row.prompt_len)
            history.catch_up(row.tokens)
            seen, counts, num_seen = self._address(history.ids), self._address(history.counts), len(history.ids)
        biased, num_biased = self._ids(params.logit_bias)
        if num_biased:
            biases = self._address(np.array(list(params.logit_bias.values()), np.float32))
        allowed, num_allowed = self._ids(params.allowed_token_ids)
        barred, num_barred = self._ids(row.barred)
        if row.allowed is not None:
            mask = self._address(np.ascontiguousarray(row.allowed))
        pointers = (seen, counts, biased, biases, allowed, barred, mask, 0)
        return _choice(
            params, row.seed, row.position, logprobs, pointers, (num_seen, num_biased, num_allowed, num_barred)
        )

    def _address(self, array: NDArray[np.generic]) -> int:
        self._arrays.append(array)
        return int(array.ctypes.data)

    def _ids(self, token_ids: Iterable[int]) -> tuple[int, int]:
        """Where some tokens are, and how many."""
        array = np.array(list(token_ids), np.int64)
        return (self._address(array), len(array)) if len(array) else (0, 0)


class StandingChoices:
    """The choices of the sequences of a step, kept from step to step: in most only positions are new.

    Only for sequences whose parameters say all, and which ask for no log probabilities.
    """

    def __init__(self) -> None:
        self._sequences: list[ref[request.Sequence]] = []  # an idle engine must not keep the last ones
        self._array: NDArray[np.void] | None = None
        self._packed: WeakKeyDictionary[request.Sequence, bytes | None] = WeakKeyDictionary()

    def of(self, sequences: list[request.Sequence]) -> NDArray[np.void] | None:
        """The choices [R], good until the next call; None if there is a sequence of another kind."""
        if [each() for each in self._sequences] != sequences:  # nobody else is equal to a sequence
            packed = [self._packed_of(sequence) for sequence in sequences]
            standing = [each for each in packed if each is not None]
            is_all = len(standing) == len(packed)
            self._array = np.frombuffer(bytearray(b"".join(standing)), CHOICE) if is_all else None
            self._sequences = [ref(each) for each in sequences]
        if self._array is not None:
            self._array["position"] = [len(sequence.tokens) for sequence in sequences]
        return self._array

    def _packed_of(self, sequence: request.Sequence) -> bytes | None:
        if sequence not in self._packed:
            params = sequence.params
            fields = _choice(params, sequence.seed, 0, -1, (0,) * 8, (0,) * 4)
            self._packed[sequence] = np.array([fields], CHOICE).tobytes() if _is_standing(params) else None
        return self._packed[sequence]


def _is_standing(params: SamplingParams) -> bool:
    changes = params.has_penalties or params.logit_bias or params.min_tokens or params.allowed_token_ids
    return not changes and params.logprobs is None


def _choice(
    params: SamplingParams,
    seed: int,
    position: int,
    logprobs: int,
    pointers: tuple[int, ...],
    counts: tuple[int, ...],
) -> tuple[float, ...]:
    """The fields of `NativeChoice`, in their order."""
    return (
        params.top_p,
        params.min_p,
        seed & _SEEDS,
        position,
        params.top_k,
        *pointers,
        *counts,
        0.0 if params.is_greedy else max(params.temperature, _COLDEST),
        params.repetition_penalty,
        params.frequency_penalty,
        params.presence_penalty,
        min(logprobs, MOST_TOPS),
        0,
    )
