"""Sequences with known keys and values in a cache, and what attention over them should be."""

import torch

from servery.engine.architecture import ModelConfig
from servery.engine.attention.backend import AttentionBackend
from servery.engine.attention.reference import ReferenceAttention
from servery.engine.batch import Batch
from servery.engine.kv import KVCache
from servery.engine.kv_format import FLOAT32, KVFormat
from servery.engine.rope_config import RopeConfig


def shape(num_kv_heads: int, group: int, head_dim: int, windows: tuple[int | None, ...], **changes) -> ModelConfig:
    return ModelConfig(
        architecture="Qwen3ForCausalLM",
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_layers=len(windows),
        num_heads=num_kv_heads * group,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_position=1024,
        norm_eps=1e-6,
        ropes=(RopeConfig(theta=10_000.0),) * len(windows),
        windows=windows,
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        qk_norm=False,
        tie_embeddings=True,
        eos_token_ids=frozenset(),
        dtype=None,
        **changes,
    )


def by_hand(config: ModelConfig, query, keys, values, start: int, window: int | None, sinks=None) -> torch.Tensor:
    """One row in float64: query [count, heads, dim], keys and values [context, kv_heads, dim], sinks [heads]."""
    scale, cap = config.attention_scale or config.head_dim**-0.5, config.attention_soft_cap
    count, num_heads, head_dim = query.shape
    group = num_heads // keys.shape[1]
    out = torch.zeros(count, num_heads, head_dim, dtype=torch.float64)
    for i in range(count):
        position = start + i
        first = 0 if window is None else max(0, position - window + 1)
        for head in range(num_heads):
            seen = slice(first, position + 1)
            scores = keys[seen, head // group] @ query[i, head] * scale
            scores = scores if cap is None else cap * torch.tanh(scores / cap)
            if sinks is not None:
                scores = torch.cat((scores, sinks[head : head + 1]))
            out[i, head] = scores.softmax(0)[: position + 1 - first] @ values[seen, head // group]
    return out.flatten(1)


class World:
    """Sequences with random keys and values in a cache whose every other slot is not a number."""

    def __init__(
        self,
        config: ModelConfig,
        rows: list[tuple[int, int]],
        block_size: int,
        order: list[int],
        kv_format: KVFormat = FLOAT32,
    ) -> None:
        self.config, self.rows = config, rows
        generator = torch.Generator().manual_seed(len(rows))
        lengths = [start + count for start, count in rows]
        needed = [-(-length // block_size) for length in lengths]
        self.cache = KVCache(config, max(order) + 1, block_size, torch.float32, kv_format=kv_format)
        for stored in self.cache.scales or self.cache.layers:
            stored.fill_(float("nan"))
        given_out = iter(order)
        self.blocks = [[next(given_out) for _ in range(count)] for count in needed]
        self.batch = Batch.build(
            [([0] * count, start, blocks) for (start, count), blocks in zip(rows, self.blocks, strict=True)], block_size
        )
        kv_shape = (config.kv_planes, config.num_kv_heads, config.head_dim)
        self.kv = [torch.randn(length, *kv_shape, generator=generator, dtype=torch.float64) for length in lengths]
        tokens = sum(count for _, count in rows)
        self.query = torch.randn(tokens, config.num_heads, config.head_dim, generator=generator, dtype=torch.float64)
        self.slots = [
            torch.tensor([blocks[p // block_size] * block_size + p % block_size for p in range(len(kv))])
            for blocks, kv in zip(self.blocks, self.kv, strict=True)
        ]
        sinks_shape = (config.num_layers, config.num_heads)
        self.sinks = torch.randn(sinks_shape, generator=generator) if config.has_sinks else [None] * config.num_layers
        for slots, kv in zip(self.slots, self.kv, strict=True):
            for layer in range(config.num_layers):
                self.cache.write(layer, slots, kv.float().flatten(1))

    def expected(self, layer: int) -> torch.Tensor:
        parts = self.query.split([count for _, count in self.rows])
        return torch.cat(
            [
                by_hand(self.config, part, kv[:, 0], kv[:, -1], start, self.config.windows[layer], self.sinks[layer])
                for part, kv, (start, _) in zip(parts, self.kv, self.rows, strict=True)
            ]
        )

    def attention(self, layer: int, backend: AttentionBackend | None = None) -> torch.Tensor:
        backend = backend or ReferenceAttention(self.config, list(self.sinks))
        return backend.plan(self.batch, self.cache).attend(layer, self.query.float().flatten(1)).double()

    def check(self, backend: AttentionBackend | None = None) -> None:
        for layer in range(self.config.num_layers):
            torch.testing.assert_close(self.attention(layer, backend), self.expected(layer), rtol=1e-5, atol=1e-5)
