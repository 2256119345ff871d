"""Which way to compute attention where several were measured: the quickest for the shape of a step, ours where in doubt."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from servery.engine.cuda.attention import PagedRows
from servery.engine.kv import KVCache

OURS = "triton"
# Another way has to be quicker by so much: what was measured varies, and one way for all steps is simpler.
_MARGIN = 0.05


class Plan(Protocol):
    """One step's attention."""

    def attend(self, layer: int, query: Tensor) -> Tensor:
        """Causal attention of `query` [tokens, heads * head_dim] over `layer`, in the same shape."""
        ...


class Backend(Protocol):
    """A way to compute attention over the paged cache of a device."""

    def plan(self, batch: PagedRows, cache: KVCache) -> Plan:
        """Prepare one step."""
        ...


@dataclass(frozen=True, slots=True)
class StepShape:
    """What the choice depends on: whether every row has one token, and powers of 2 that bound rows and contexts."""

    is_decode: bool
    rows: int
    context: int

    @classmethod
    def of(cls, batch: PagedRows) -> "StepShape":
        """The shape of a batch."""
        rows, context = (1 << (size - 1).bit_length() for size in (batch.num_rows, batch.longest_context))
        return cls(batch.max_query_tokens == 1, rows, context)


def quickest(seconds: Mapping[StepShape, Mapping[str, float]]) -> dict[StepShape, str]:
    """For each shape the name of the quickest way of those that were measured; only where that is not `OURS`."""
    chosen = {}
    for shape, by_name in seconds.items():
        name = min(by_name, key=by_name.__getitem__)
        if by_name[name] < by_name[OURS] * (1 - _MARGIN):
            chosen[shape] = name
    return chosen


class AttentionByShape:
    """A backend that hands each step to the one that is quickest for its shape."""

    def __init__(self, backends: Mapping[str, Backend], chosen: Mapping[StepShape, str]) -> None:
        """`backends` by name, of which `OURS` computes all that nothing else is `chosen` for."""
        self._backends = backends
        self._chosen = chosen

    def plan(self, batch: PagedRows, cache: KVCache) -> Plan:
        """That of the backend for the shape."""
        return self._backends[self._chosen.get(StepShape.of(batch), OURS)].plan(batch, cache)
