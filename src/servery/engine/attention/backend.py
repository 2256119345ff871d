"""The seam between the decoder and whatever computes attention over the paged KV cache."""

from typing import Protocol

from torch import Tensor

from servery.engine.batch import Batch
from servery.engine.kv import KVCache


class AttentionPlan(Protocol):
    """Everything about one step that is the same for all layers, decided once."""

    def attend(self, layer: int, query: Tensor) -> Tensor:
        """Causal attention of `query` [tokens, heads * head_dim] over the cache of `layer`.

        The step's own keys and values are already written. Returns [tokens, heads * head_dim].
        """


class AttentionBackend(Protocol):
    """A way to compute attention; made once per model."""

    def plan(self, batch: Batch, cache: KVCache) -> AttentionPlan:
        """Prepare one step."""
