"""What linear layers are given: a sample of text runs through the model, one layer at a time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.assembly import assemble_layer, norm_of
from servery.engine.batch import Batch
from servery.engine.decoder import Decoder, Layer
from servery.engine.embedding import Embedding
from servery.engine.errors import LoadError
from servery.engine.kv import KVCache
from servery.engine.linear import Linear, linear_of
from servery.engine.tokenizer import Tokenizer
from servery.engine.weights import Weights

DEFAULT_SAMPLE = Path(__file__).with_name("sample.md")
SEQUENCE_TOKENS = 256
MAX_TOKENS = 2048
MIN_TOKENS = 32
_BLOCK = 16
# Rows of input that are kept of each linear layer, to try scales on.
KEPT_ROWS = 256


def read_sample(path: Path | None) -> str:
    """The text to calibrate on: that in `path`, else one that comes with the engine. Raises `LoadError`."""
    source = path or DEFAULT_SAMPLE
    try:
        return source.read_text(encoding="utf-8")
    except OSError as error:
        raise LoadError(f"the calibration text {source} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise LoadError(
            f"the calibration text {source} is not UTF-8 ({error.reason} at byte {error.start})."
        ) from error


def sequences_of(text: str, tokenizer: Tokenizer, config: ModelConfig) -> list[list[int]]:
    """Up to 2048 tokens of `text`, in sequences of at most 256.

    Raises `LoadError` when there are too few, or ids that the model lacks.
    """
    tokens = tokenizer.encode(text)[:MAX_TOKENS]
    if len(tokens) < MIN_TOKENS:
        raise LoadError(f"the calibration text has {len(tokens)} tokens; give at least {MIN_TOKENS}, better some 1000.")
    if max(tokens) >= config.vocab_size:
        raise LoadError(
            f"the tokenizer gives token {max(tokens)}, but the model has {config.vocab_size}. "
            "Tokenizer and weights belong to different models."
        )
    length = min(SEQUENCE_TOKENS, config.max_position)
    return [tokens[first : first + length] for first in range(0, len(tokens), length)]


@dataclass(frozen=True, slots=True)
class Observed:
    """Inputs of a linear layer: up to 256 `rows` [R, K], and the mean of |x| of each channel, over all rows [K]."""

    rows: Tensor
    mean_size: Tensor


class ObservedLinear:
    """A dense layer that remembers what it was given, in `seen` under its key."""

    def __init__(self, seen: dict[str, Observed], key: str, inner: Linear) -> None:
        self._key = key
        self._inner = inner
        self._seen = seen

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self._inner.shape

    @property
    def nbytes(self) -> int:
        """What the layer holds."""
        return self._inner.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in_features] -> [rows, out_features]."""
        self._remember(x)
        return self._inner(x)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)`."""
        self._remember(x)
        return self._inner.add_to(residual, x)

    def _remember(self, x: Tensor) -> None:
        step = -(-len(x) // KEPT_ROWS)
        self._seen[self._key] = Observed(x[::step].clone(), x.abs().mean(0))


@dataclass(frozen=True, slots=True)
class _ObservedWeights(Weights):
    """Makes linear layers that remember what they are given."""

    seen: dict[str, Observed] = field(kw_only=True)

    def linear(self, key: str) -> Linear:
        """The linear layer `key`, observed."""
        return ObservedLinear(self.seen, key, Weights.linear(self, key))


class CalibrationRun:
    """The sample on its way through the model, in float32. `hidden` [T, hidden_size] is what the next layer is given."""

    def __init__(self, config: ModelConfig, sequences: Sequence[Sequence[int]], ends: Weights) -> None:
        self._config = config
        self._ends = ends
        self._batch = Batch.build(_rows(sequences), _BLOCK)
        self._num_blocks = sum(len(extent.block_ids) for extent in self._batch.extents)
        self.hidden = self._decoder(0, ()).embed(self._batch.input_ids)

    def run(self, index: int, weights: Weights) -> dict[str, Observed]:
        """Compute layer `index` and give what its linear layers were given, by key."""
        seen: dict[str, Observed] = {}
        layer = assemble_layer(
            self._config, index, _ObservedWeights(weights.matrices, weights.tensors, weights.dtype, seen=seen)
        )
        config = self._config.only_layer(index)
        cache = KVCache(config, self._num_blocks, _BLOCK, torch.float32)
        self.hidden = self._decoder(index, (layer,)).through_layers(self.hidden, self._batch, cache)
        return seen

    def _decoder(self, index: int, layers: Sequence[Layer]) -> Decoder:
        config = self._config.only_layer(index)
        embedding = self._ends.matrices["embedding"]
        norm = norm_of(config, self._ends.tensors["norm"])
        return Decoder(
            config,
            torch.float32,
            embedding=Embedding(embedding[0], torch.float32),
            layers=layers,
            norm=norm,
            head=linear_of(embedding),
        )


def _rows(sequences: Sequence[Sequence[int]]) -> list[tuple[Sequence[int], int, list[int]]]:
    rows, block = [], 0
    for tokens in sequences:
        num_blocks = -(-len(tokens) // _BLOCK)
        rows.append((tokens, 0, list(range(block, block + num_blocks))))
        block += num_blocks
    return rows
