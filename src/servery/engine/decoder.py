"""The one transformer that runs every supported architecture: what differs is data in `ModelConfig`."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.attention.backend import AttentionBackend
from servery.engine.attention.reference import ReferenceAttention
from servery.engine.batch import Batch
from servery.engine.device_batch import DeviceBatch
from servery.engine.doorbell import Interruption
from servery.engine.embedding import Embedding
from servery.engine.kv import KVCache
from servery.engine.latent import LatentOutput
from servery.engine.linear import Linear
from servery.engine.mlp import GatedMLP, Mixture
from servery.engine.native.embedding import PanelEmbedding
from servery.engine.norm import CenteredNorm, RMSNorm, Scaling
from servery.engine.parallel.summed import DividedEmbedding, Elsewhere
from servery.engine.projection import HeadProjection, Projection
from servery.engine.rope import RopeTable

Norm = RMSNorm | CenteredNorm | Elsewhere
Post = Norm | Scaling


class StepLoop(Protocol):
    """All of `Decoder.forward` in one call, for the caches that it takes."""

    @property
    def embeds(self) -> bool:
        """Whether it looks up embeddings too; else it has to be given them."""
        ...

    def takes(self, cache: KVCache) -> bool:
        """Whether it can write and read the cache."""
        ...

    def listen(self, listener: Callable[[str, float], None] | None) -> None:
        """Let each step tell how many seconds its linears, its attention and the rest took."""
        ...

    def run(
        self,
        batch: Batch,
        cache: KVCache,
        angles: Sequence[Tensor],
        given: Tensor | None,
        interruption: Interruption | None,
    ) -> Tensor:
        """As `Decoder.forward`; `angles` are the tables of all ropes, `given` what `Decoder.embed` gives."""
        ...


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer. `sinks` [heads]: the score that each head gives to looking at nothing.

    `attention_post` and `mlp_post` are what happens to the result of either half before it joins the residual stream.
    """

    attention_norm: Norm | None
    project: Projection
    output: Linear | LatentOutput
    attention_post: Post | None
    mlp_norm: Norm | None
    mlp: GatedMLP | Mixture
    mlp_post: Post | None
    sinks: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """What the weights hold in memory."""
        norms = (self.attention_norm, self.attention_post, self.mlp_norm, self.mlp_post)
        linears = self.project.nbytes + self.output.nbytes + self.mlp.nbytes
        linears += 0 if self.sinks is None else self.sinks.nbytes
        return linears + sum(norm.nbytes for norm in norms if isinstance(norm, RMSNorm | CenteredNorm))

    def adapted(self, wrap: Callable[[str, Linear], Linear]) -> "Layer":
        """The same layer over what `wrap` makes of the linears that are given every token of a step, by their names.

        Left alone are experts, which are given some tokens, and projections of other kinds.
        """
        return replace(
            self,
            project=self.project.adapted(wrap) if isinstance(self.project, HeadProjection) else self.project,
            output=self.output.adapted(wrap) if isinstance(self.output, LatentOutput) else wrap("output", self.output),
            mlp=self.mlp.adapted(wrap) if isinstance(self.mlp, GatedMLP) else self.mlp,
        )


class Decoder:
    """A loaded model. Holds no state between steps besides its weights; the KV cache belongs to the caller."""

    def __init__(
        self,
        config: ModelConfig,
        dtype: torch.dtype,
        *,
        embedding: Embedding | PanelEmbedding | DividedEmbedding | Elsewhere,
        layers: Sequence[Layer],
        norm: Norm,
        head: Linear,
        attention: AttentionBackend | None = None,
        device: torch.device | None = None,
    ) -> None:
        """`device` is where the weights are; None: the CPU."""
        self.device = device or torch.device("cpu")
        self.config = config
        self.dtype = dtype
        self._embedding = embedding
        self._layers = tuple(layers)
        self._norm = norm
        # Rounded to the weights' dtype, as the models were trained.
        scale = torch.tensor(config.embedding_scale, dtype=dtype, device=self.device)
        self._embedding_scale = None if config.embedding_scale == 1.0 else scale
        self._head = head
        self._attention = attention or ReferenceAttention(config, [layer.sinks for layer in self._layers])
        self._loop: StepLoop | None = None
        ropes = tuple(dict.fromkeys(config.ropes))
        self._ropes = [RopeTable(rope, config.rope_dim, config.max_position, dtype, self.device) for rope in ropes]
        self._rope_of_layer = [ropes.index(rope) for rope in config.ropes]
        ends = self._embedding.nbytes + norm.nbytes + (0 if config.tie_embeddings else head.nbytes)
        self._weight_bytes = ends + sum(layer.nbytes for layer in self._layers)
        self._expert_bytes = sum(
            layer.mlp.expert_bytes for layer in self._layers if not isinstance(layer.mlp, GatedMLP)
        )

    @property
    def attention(self) -> AttentionBackend:
        """What computes attention."""
        return self._attention

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The weights of its layers."""
        return self._layers

    @property
    def norm(self) -> Norm:
        """What comes after the last layer."""
        return self._norm

    @property
    def loop(self) -> StepLoop | None:
        """What computes whole steps; None where that is done operation by operation."""
        return self._loop

    @property
    def head_bytes(self) -> int:
        """What is read to get from a hidden state to logits."""
        return self._head.nbytes

    @property
    def embedding_bytes(self) -> int:
        """What of the weights is only looked up, never read as a whole."""
        return 0 if self.config.tie_embeddings else self._embedding.nbytes

    @property
    def weight_bytes(self) -> int:
        """What the weights hold in memory; a tied head counts once."""
        return self._weight_bytes

    def read_bytes(self, num_tokens: int) -> int:
        """The weights that a step of `num_tokens` tokens is expected to read: of experts only those it goes to."""
        if self.config.experts is None:
            return self._weight_bytes
        unread = 1.0 - self.config.experts.read_share(num_tokens)
        return self._weight_bytes - round(unread * self._expert_bytes)

    def reserve(self, positions: int) -> None:
        """Let tables of angles hold `positions` from now on: they grow no more, so that a graph may keep their address."""
        for rope in self._ropes:
            rope.table(positions)

    def adapted(self, wrap: Callable[[str, Linear], Linear]) -> "Decoder":
        """A decoder over the same weights whose layers' linears are what `wrap` makes of them, given keys such as 3.qkv."""
        other = copy.copy(self)
        other._loop = None  # noqa: SLF001
        other._layers = tuple(layer.adapted(partial(_keyed, wrap, at)) for at, layer in enumerate(self._layers))  # noqa: SLF001
        return other

    def with_attention(self, attention: AttentionBackend) -> "Decoder":
        """A decoder over the same weights with another way to compute attention."""
        other = copy.copy(self)
        other._loop = None  # noqa: SLF001
        other._attention = attention  # noqa: SLF001
        return other

    def with_loop(self, loop: StepLoop | None) -> "Decoder":
        """A decoder over the same weights whose steps are computed in one call, or again operation by operation."""
        other = copy.copy(self)
        other._loop = loop  # noqa: SLF001
        return other

    @torch.inference_mode()
    def forward(self, batch: Batch, cache: KVCache, interruption: Interruption | None = None) -> Tensor:
        """Run one step: write the tokens' keys and values into `cache`, return final hidden states [T, hidden_size].

        Raises `Interrupted` as soon as `interruption` says so; some are written then.
        """
        if self.device.type != "cpu":
            batch = DeviceBatch.of(batch, self.device)
        if self._loop is None or not self._loop.takes(cache):
            return self._norm(self.through_layers(self.embed(batch.input_ids), batch, cache, interruption))
        longest = batch.longest_context
        given = None if self._loop.embeds else self.embed(batch.input_ids)
        return self._loop.run(batch, cache, [rope.table(longest) for rope in self._ropes], given, interruption)

    @torch.inference_mode()
    def embed(self, ids: Tensor) -> Tensor:
        """What the first layer is given for tokens [T]: [T, hidden_size]."""
        hidden = self._embedding(ids)
        return hidden if self._embedding_scale is None else hidden * self._embedding_scale

    @torch.inference_mode()
    def through_layers(
        self, hidden: Tensor, batch: Batch, cache: KVCache, interruption: Interruption | None = None
    ) -> Tensor:
        """What the last layer gives for what the first one is given, both [T, hidden_size]. Raises `Interrupted`."""
        longest = batch.longest_context
        angles = [rope.at(batch.positions, longest) for rope in self._ropes]
        plan = self._attention.plan(batch, cache)
        for index, layer in enumerate(self._layers):
            if interruption is not None:
                interruption.check()
            cos, sin = angles[self._rope_of_layer[index]]
            x = layer.attention_norm(hidden) if layer.attention_norm else hidden
            query, keys_values = layer.project(x, cos, sin)
            cache.write(index, batch.slots, keys_values)
            hidden = self._finish(layer, hidden, x, plan.attend(index, query))
        return hidden

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """float32 [R, vocab_size] for rows [R, hidden_size] of what `forward` returned."""
        logits = self._head(hidden).float()
        divisor, cap = self.config.logit_divisor, self.config.logit_soft_cap
        logits = logits if divisor == 1.0 else logits.div_(divisor)
        return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)

    def _finish(self, layer: Layer, hidden: Tensor, x: Tensor, attended: Tensor) -> Tensor:
        """What attention gave and the MLP, each added to the residual stream; `x` is what attention was given."""
        hidden = _added(hidden, layer.output, attended, layer.attention_post)
        if not self.config.is_parallel:
            x = layer.mlp_norm(hidden) if layer.mlp_norm else hidden
        return _added(hidden, layer.mlp, x, layer.mlp_post)


def _keyed(wrap: Callable[[str, Linear], Linear], layer: int, name: str, linear: Linear) -> Linear:
    return wrap(f"{layer}.{name}", linear)


def _added(residual: Tensor, part: Linear | LatentOutput | GatedMLP | Mixture, x: Tensor, post: Post | None) -> Tensor:
    return part.add_to(residual, x) if post is None else residual + post(part(x))
