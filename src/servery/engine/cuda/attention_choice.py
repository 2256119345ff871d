"""Which way to compute attention where several were measured: the quickest for the shape of a step, ours where in doubt."""

from collections.abc import Callable, Mapping
from typing import Protocol

from torch import Tensor

from servery.engine.cuda.attention import PagedRows
from servery.engine.cuda.step_shape import StepShape
from servery.engine.kv import KVCache

OURS, VARLEN, FLEX = "triton", "varlen", "flex"
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

    def __init__(
        self,
        backends: Mapping[str, Backend],
        chosen: Mapping[StepShape, str],
        takes: Callable[[KVCache], bool] = lambda cache: True,
    ) -> None:
        """`backends` by name, of which `OURS` computes all that nothing else is `chosen` for, and caches no other `takes`."""
        self._backends = backends
        self._chosen = chosen
        self._takes = takes

    def plan(self, batch: PagedRows, cache: KVCache) -> Plan:
        """That of the backend for the shape."""
        shape = StepShape.bounding(batch.max_query_tokens, batch.num_rows, batch.longest_context)
        name = self._chosen.get(shape, OURS) if self._takes(cache) else OURS
        return self._backends[name].plan(batch, cache)
