"""A linear of the decoder with what the adapters of a step add to it."""

from dataclasses import dataclass

from torch import Tensor

from servery.engine.linear import Linear
from servery.engine.lora.adapter import ADAPTER_DTYPE, Adapter


@dataclass(slots=True)
class ActiveRows:
    """Which rows of the step under way belong to an adapter: (first, one after the last, adapter); the rest to none."""

    segments: tuple[tuple[int, int, Adapter], ...] = ()


class AdaptedLinear:
    """`linear`, whose weights may be held in any way, and the delta of each active row's adapter."""

    __slots__ = ("_active", "_key", "_linear")

    def __init__(self, linear: Linear, key: str, active: ActiveRows) -> None:
        self._linear = linear
        self._key = key
        self._active = active

    @property
    def shape(self) -> tuple[int, int]:
        """(out_features, in_features)."""
        return self._linear.shape

    @property
    def nbytes(self) -> int:
        """Bytes of the base's weights; those of adapters are counted by the pool."""
        return self._linear.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """[tokens, in_features] -> [tokens, out_features]."""
        return self._added(self._linear(x), x)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual + self(x)`; `residual` [tokens, out_features] is left alone."""
        return self._added(self._linear.add_to(residual, x), x)

    def _added(self, out: Tensor, x: Tensor) -> Tensor:
        x = x.to(ADAPTER_DTYPE)
        for first, last, adapter in self._active.segments:
            delta = adapter.deltas.get(self._key)
            if delta is not None:
                delta.add_to(out[first:last], x[first:last])
        return out
