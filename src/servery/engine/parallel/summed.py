"""Parts of a layer whose results are sums, or collections, over the processes that share it."""

import torch
from torch import Tensor
from torch.nn import functional as F

from servery.engine.embedding import Embedding
from servery.engine.linear import Linear
from servery.engine.mlp import Mixture
from servery.engine.parallel.team import Team


class SummedLinear:
    """A linear layer of which this process has some input columns; the bias is added once, to the sum."""

    __slots__ = ("_bias", "_part", "_team")

    def __init__(self, part: Linear, bias: Tensor | None, team: Team) -> None:
        self._part = part
        self._bias = bias
        self._team = team

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features of this process)."""
        return self._part.shape

    @property
    def nbytes(self) -> int:
        """Bytes of this process's weight, and of the bias."""
        return self._part.nbytes + (0 if self._bias is None else self._bias.nbytes)

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in_features of this process] -> [rows, out_features], the same in all processes."""
        total = self._team.sum(self._part(x))
        return total if self._bias is None else total.add_(self._bias)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)`."""
        return self(x).add_(residual)


class SummedMixture:
    """A mixture of experts of each of which this process has some columns."""

    __slots__ = ("_part", "_team")

    def __init__(self, part: Mixture, team: Team) -> None:
        self._part = part
        self._team = team

    @property
    def nbytes(self) -> int:
        """What this process has of router and experts."""
        return self._part.nbytes

    @property
    def expert_bytes(self) -> int:
        """What this process has of the experts, without the shared one."""
        return self._part.expert_bytes

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, hidden_size] -> [rows, hidden_size], the same in all processes."""
        return self._team.sum(self._part(x))

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)`; `residual` is left alone."""
        return self(x).add_(residual)


class DividedEmbedding:
    """An embedding of which this process has the rows of the tokens from `first` on."""

    __slots__ = ("_first", "_part", "_rows", "_team", "dense")

    def __init__(self, part: Embedding, first: int, rows: int, team: Team) -> None:
        self._part = part
        self._first = first
        self._rows = rows
        self._team = team
        self.dense: Tensor | None = None  # nobody may look rows up but by a call

    @property
    def nbytes(self) -> int:
        """What this process has of the matrix."""
        return self._part.nbytes

    def __call__(self, ids: Tensor) -> Tensor:
        """[tokens] -> [tokens, hidden_size]."""
        own = ids - self._first
        is_elsewhere = (own < 0) | (own >= self._rows)
        if not self._rows:  # a vocabulary of fewer rows than processes leaves some without any
            raise ValueError("this process has no row of the embedding; lower --tensor-parallel.")
        rows = self._part(own.masked_fill(is_elsewhere, 0)).masked_fill(is_elsewhere.unsqueeze(1), 0.0)
        return self._team.sum(rows)


class CollectedHead:
    """A head of which this process has the rows of some tokens; all have as many, but the last ones of the vocabulary."""

    __slots__ = ("_part", "_team", "_vocab_size", "_width")

    def __init__(self, part: Linear, vocab_size: int, team: Team) -> None:
        self._part = part
        self._team = team
        self._vocab_size = vocab_size
        self._width = -(-vocab_size // team.size)

    @property
    def shape(self) -> tuple[int, int]:
        """(vocab_size, hidden_size)."""
        return self._vocab_size, self._part.shape[1]

    @property
    def nbytes(self) -> int:
        """What this process has of the matrix."""
        return self._part.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, hidden_size] -> [rows, vocab_size], in all processes; `x` counts as the first process has it."""
        own = self._part(self._team.share(x.contiguous()))
        padded = F.pad(own, (0, self._width - own.shape[1]))
        return self._team.collect(padded)[:, : self._vocab_size]

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)`."""
        return residual + self(x)


class Elsewhere:
    """In the place of what another stage has."""

    nbytes = 0
    shape = (0, 0)
    dense: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Never to be called."""
        raise RuntimeError(f"another stage computes this, of {list(x.shape)}.")

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """Never to be called."""
        return torch.add(residual, self(x))
