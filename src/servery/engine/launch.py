"""A step whose tokens stay on the device: launched without waiting, and followed by the next that is fed with them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from servery.engine.batch import Batch
from servery.engine.decoder import Decoder
from servery.engine.device_batch import BatchShape, DeviceBatch, pack
from servery.engine.device_rows import DeviceRows
from servery.engine.kv import KVCache
from servery.engine.logit_edits import LogitEdits, edited
from servery.engine.packed_arrays import PackedArrays

# The arrays of a step, by number: those of its batch, of which the block tables come last of all; where in `last` each
# token is that the batch does not have; the rows that sample; and what decides their tokens.
SOURCES, SAMPLED, FIRST_OF_ROWS, TABLES = 5, 6, 7, 13


class LaunchShape(NamedTuple):
    """What has to be known of a step beside its arrays.

    `num_sampling` rows sample, the first ones; what is behind them fills a captured step up to `bucket` rows, if it is
    one. `is_limited`: some row keeps only the most likely tokens. `chooses_apart`: the tokens are chosen when edits of the
    logits are there, see `Launcher.choose_edited`.
    """

    max_query_tokens: int
    longest_context: int
    num_sampling: int
    is_limited: bool = False
    bucket: int | None = None
    chooses_apart: bool = False

    @property
    def of_batch(self) -> BatchShape:
        """Of the batch alone."""
        return BatchShape(self.max_query_tokens, self.longest_context)


class DeviceSampler(Protocol):
    """Chooses tokens on the device, without a look at what they are."""

    def __call__(self, logits: Tensor, rows: DeviceRows, *, limited: bool) -> Tensor:
        """int64 [R] for float32 `logits` [R, V]; -1 where no logit is finite."""
        ...


class GraphStats(NamedTuple):
    """How many graphs there are, what memory their pool takes, and how long capturing took."""

    graphs: int = 0
    nbytes: int = 0
    seconds: float = 0.0


class Forwarded(NamedTuple):
    """The hidden states of a step and its arrays on the device. Where they lie the next step may be computed."""

    hidden: Tensor
    tensors: Sequence[Tensor]


class Graphs(Protocol):
    """Steps of decoding that were captured."""

    @property
    def stats(self) -> GraphStats:
        """What was captured so far."""
        ...

    def run(self, arrays: PackedArrays, shape: LaunchShape) -> "Forwarded | None":
        """Run a step of a bucket, capturing it if it is the first; None if it cannot be."""
        ...


class Launched(NamedTuple):
    """A step under way: hidden states [T, hidden_size], of the first stage; `tokens` [R] where they were chosen."""

    hidden: Tensor | None
    tokens: Tensor | None


class Edited(NamedTuple):
    """The tokens [R] that were chosen after edits, and the logits [R, V] of before."""

    tokens: Tensor
    logits: Tensor


class Launcher:
    """Launches steps of one model on its device. `last` int64 holds the newest tokens, by row of the step that chose them.

    Every process of a model has one, and all are given the same arrays. `logits` are of this process's decoder.
    """

    def __init__(
        self,
        model: Decoder,
        logits: Callable[[Tensor], Tensor] | None,
        cache: KVCache,
        sample: DeviceSampler,
        max_rows: int,
        *,
        takes_any: bool = True,
    ) -> None:
        """Without `logits`, as a stage that has no head, it never chooses. `takes_any`: `sample` chooses by any parameters, not only greedily."""
        self.takes_any = takes_any
        self._model = model
        self._logits = logits
        self._cache = cache
        self._sample = sample
        self.last = torch.zeros(max_rows, dtype=torch.int64, device=model.device)
        self.graphs: Graphs | None = None
        self._forwarded: tuple[Forwarded, LaunchShape] | None = None

    @torch.inference_mode()
    def launch(self, arrays: PackedArrays, shape: LaunchShape) -> Launched:
        """Run a step; up to its hidden states only, where no row samples or tokens are chosen apart."""
        if shape.bucket is not None and self.graphs is not None:
            forwarded = self.graphs.run(arrays, shape)
            if forwarded is not None:
                self._forwarded = (forwarded, shape) if shape.chooses_apart else None
                return Launched(None, None if shape.chooses_apart else self.last[: shape.num_sampling])
        tensors = arrays.on(self._model.device)
        hidden = self.forward(tensors, shape, arrays)
        self._forwarded = (Forwarded(hidden, tensors), shape) if shape.chooses_apart else None
        chooses = shape.num_sampling > 0 and self._logits is not None and not shape.chooses_apart
        return Launched(hidden, self.choose(hidden, tensors, shape) if chooses else None)

    @torch.inference_mode()
    def choose_edited(self, edits: PackedArrays) -> Edited | None:
        """Choose the tokens of the step that was launched last, once; None in a stage that has no head."""
        assert self._forwarded is not None
        (hidden, tensors), shape = self._forwarded
        self._forwarded = None
        if self._logits is None:
            return None
        logits = self._logits(hidden.index_select(0, tensors[SAMPLED]))
        changed = edited(logits, LogitEdits(*edits.on(self._model.device)), self.last)
        return Edited(self._keep(changed, tensors, shape), logits)

    def forward(self, tensors: Sequence[Tensor], shape: LaunchShape, arrays: PackedArrays | None = None) -> Tensor:
        """The hidden states, of tokens of which the device alone may know some."""
        sources = tensors[SOURCES]
        known = self.last.index_select(0, sources.clamp(min=0))
        # A row that got no token, -1, has failed: the host learns of it a step later, and nobody reads what comes of it.
        ids = torch.where(sources < 0, tensors[0], known).clamp_(min=0)
        batch = DeviceBatch([ids, *tensors[1:SOURCES], tensors[TABLES]], shape.of_batch, arrays)
        return self._model.forward(batch, self._cache)

    def choose(self, hidden: Tensor, tensors: Sequence[Tensor], shape: LaunchShape) -> Tensor:
        """The next token of each row that samples, kept in `last`."""
        assert self._logits is not None
        return self._keep(self._logits(hidden.index_select(0, tensors[SAMPLED])), tensors, shape)

    def _keep(self, logits: Tensor, tensors: Sequence[Tensor], shape: LaunchShape) -> Tensor:
        tokens = self._sample(logits, DeviceRows(*tensors[FIRST_OF_ROWS:TABLES]), limited=shape.is_limited)
        self.last[: len(tokens)].copy_(tokens)
        return self.last[: shape.num_sampling]


def pack_step(
    batch: Batch,
    sources: NDArray[np.int64],
    sampled: Sequence[int] | NDArray[np.int64],
    rows: Sequence[NDArray[np.generic]],
) -> list[NDArray[np.generic]]:
    """The arrays of a step. `sources` [T] is where in `last` a token is, -1 where the batch has it; `rows` of `pack_rows`."""
    *of_batch, tables = pack(batch)
    return [*of_batch, sources, np.asarray(sampled, np.int64), *rows, tables]


def padded(arrays: Sequence[NDArray[np.generic]], size: int, spare: int, block_size: int) -> list[NDArray[np.generic]]:
    """The arrays of a step of one token for each row, filled up to `size` rows that write to block `spare` alone."""
    rows = len(arrays[0])
    # Of a row that pads: token 0 at position 0 of the spare block, which sees itself; greedy.
    fills = (0, 0, spare * block_size, 1, None, -1, None, 0.0, 0, 1.0, 0.0, 0, 0, spare)
    made = [array if fill is None else _filled(array, size, fill) for array, fill in zip(arrays, fills, strict=True)]
    made[4], made[SAMPLED] = np.arange(size + 1, dtype=np.int32), np.arange(size, dtype=np.int64)
    assert rows <= size
    return made


def _filled(array: NDArray[np.generic], size: int, fill: float) -> NDArray[np.generic]:
    made = np.full((size, *array.shape[1:]), fill, array.dtype)
    made[: len(array)] = array
    return made
