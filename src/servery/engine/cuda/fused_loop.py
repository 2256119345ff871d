"""A step of the decoder on a GPU with as few launches as there are kernels for; what has none, torch computes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.attention.backend import AttentionBackend
from servery.engine.batch import Batch
from servery.engine.cuda.rotation import Rotation
from servery.engine.cuda.small_kernels import (
    GATE,
    NORM,
    ROTATION,
    TORCH,
    TRITON,
    Rows,
    Summing,
    gating,
    summing,
    summing_in_torch,
)
from servery.engine.decoder import Layer, Norm, Post
from servery.engine.doorbell import Interruption
from servery.engine.kv import KVCache
from servery.engine.mlp import GatedMLP
from servery.engine.norm import CenteredNorm, RMSNorm, WideNorm
from servery.engine.projection import HeadProjection, Projection


class FusedLoop:
    """All of `Decoder.forward`: a `StepLoop`. Nothing in it waits for the device or reads from it.

    Sums of the residual stream are put off until the norm that follows them reads them anyway.
    """

    embeds = False

    def __init__(
        self,
        config: ModelConfig,
        layers: Sequence[Layer],
        norm: Norm,
        attention: AttentionBackend,
        ways: Mapping[str, str] | None = None,
    ) -> None:
        """`ways` to compute the parts of `small_kernels`, by name; Triton's where nothing is said."""
        ways = ways or {}
        ropes = tuple(dict.fromkeys(config.ropes))
        self._rope_of_layer = [ropes.index(rope) for rope in config.ropes]
        self._is_parallel = config.is_parallel
        self._attention = attention
        self._layers = [_FusedLayer.of(config, layer, ways) for layer in layers]
        self._norm = _summing(norm, ways)

    def takes(self, cache: KVCache) -> bool:
        """Whether it can write and read the cache: any."""
        return cache.num_blocks > 0

    def listen(self, listener: Callable[[str, float], None] | None) -> None:
        """Nobody is told anything: a device's kernels overlap, and are timed by its own profiler."""

    def run(
        self,
        batch: Batch,
        cache: KVCache,
        angles: Sequence[Tensor],
        given: Tensor | None,
        interruption: Interruption | None,
    ) -> Tensor:
        """Final hidden states [tokens, hidden_size]; the keys and values are in `cache` then. Raises `Interrupted`."""
        assert given is not None
        plan, hidden, part = self._attention.plan(batch, cache), given, None
        for index, layer in enumerate(self._layers):
            if interruption is not None:
                interruption.check()
            x, hidden = layer.attention_norm(hidden, part)
            query = layer.project(x, angles[self._rope_of_layer[index]], batch, cache, index)
            part = layer.finished(layer.output(plan.attend(index, query)), layer.attention_post)
            if self._is_parallel:
                hidden, part = hidden + part, None
            else:
                x, hidden = layer.mlp_norm(hidden, part)
            part = layer.finished(layer.mlp(x), layer.mlp_post)
        return self._norm(hidden, part)[0]


@dataclass(frozen=True, slots=True)
class _FusedLayer:
    attention_norm: Summing
    project: "FusedProjection | TorchProjection"
    output: Rows
    attention_post: Rows | None
    mlp_norm: Summing
    mlp: Rows
    mlp_post: Rows | None

    @classmethod
    def of(cls, config: ModelConfig, layer: Layer, ways: Mapping[str, str]) -> "_FusedLayer":
        project: FusedProjection | TorchProjection = TorchProjection(layer.project)
        if isinstance(layer.project, HeadProjection) and not isinstance(layer.project.qk_norm, WideNorm):
            project = project if ways.get(ROTATION) == TORCH else FusedProjection(config, layer.project)
        return cls(
            attention_norm=_summing(layer.attention_norm, ways),
            project=project,
            output=layer.output,
            attention_post=_posted(layer.attention_post, ways),
            mlp_norm=_summing(layer.mlp_norm, ways),
            mlp=_FusedMLP(layer.mlp, ways.get(GATE, TRITON)) if isinstance(layer.mlp, GatedMLP) else layer.mlp,
            mlp_post=_posted(layer.mlp_post, ways),
        )

    @staticmethod
    def finished(part: Tensor, post: Rows | None) -> Tensor:
        return part if post is None else post(part)


def _summing(norm: Norm | None, ways: Mapping[str, str]) -> Summing:
    """What gives the norm of a sum, and the sum."""
    return summing(norm, ways.get(NORM, TRITON)) if isinstance(norm, RMSNorm) else summing_in_torch(norm)


def _posted(post: Post | None, ways: Mapping[str, str]) -> Rows | None:
    if not isinstance(post, RMSNorm | CenteredNorm):
        return post
    norm = _summing(post, ways)
    return lambda part: norm(part, None)[0]


class FusedProjection:
    """Queries, keys and values by heads; what follows their product is one launch."""

    def __init__(self, config: ModelConfig, project: HeadProjection) -> None:
        self._qkv = project.qkv
        norm = project.qk_norm if isinstance(project.qk_norm, RMSNorm) else None
        self._rotation = Rotation(
            config.num_heads, config.num_kv_heads, config.head_dim, norm, is_late=project.norms_rotated
        )

    def __call__(self, x: Tensor, table: Tensor, batch: Batch, cache: KVCache, layer: int) -> Tensor:
        """Queries [tokens, heads * head_dim] for `x` [tokens, hidden_size]; keys and values are in the cache then."""
        return self._rotation(self._qkv(x), table, batch.positions, batch.slots, cache, layer)


class TorchProjection:
    """A projection of another kind, and the way into the cache after it."""

    def __init__(self, project: Projection) -> None:
        self._project = project

    def __call__(self, x: Tensor, table: Tensor, batch: Batch, cache: KVCache, layer: int) -> Tensor:
        """Queries [tokens, heads * head_dim] for `x` [tokens, hidden_size]; keys and values are in the cache then."""
        cos, sin = table.index_select(0, batch.positions).unbind(1)
        query, keys_values = self._project(x, cos, sin)
        cache.write(layer, batch.slots, keys_values)
        return query


class _FusedMLP:
    """A gated MLP whose gate is one launch, unless another way is quicker."""

    def __init__(self, mlp: GatedMLP, way: str) -> None:
        self._gate_up, self._down, self._combine = mlp.gate_up, mlp.down, gating(mlp.activation, way)

    def __call__(self, x: Tensor) -> Tensor:
        return self._down(self._combine(self._gate_up(x)))
