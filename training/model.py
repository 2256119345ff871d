"""The network: a Qwen3-shaped decoder, written for training packed rows on a CPU or a GPU.

Shapes use B rows, L positions, H query heads, G key/value heads, D = 32 head width, C model width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of one model; every field has its Qwen3 counterpart in ``config.json``."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int = 1536
    head_width: int = 32
    rope_theta: float = 10_000.0
    eps: float = 1e-6
    max_positions: int = 4096

    @property
    def parameters(self) -> int:
        """Parameters, with the embedding counted once because it is tied to the output head."""
        attention = self.width * self.head_width * (2 * self.heads + 2 * self.kv_heads)
        norms = 2 * self.width + 2 * self.head_width
        return self.layers * (attention + 3 * self.width * self.ffn + norms) + (self.vocab + 1) * self.width


SHAPES = {
    "draft": Shape(width=96, layers=2, heads=4, kv_heads=2, ffn=256),
    "small": Shape(width=160, layers=8, heads=6, kv_heads=2, ffn=432),
    "base": Shape(width=384, layers=12, heads=12, kv_heads=4, ffn=1024),
}


# Below this length writing out the scores beats the fused kernel on a CPU (measured: 45 against 60 ms at 512 and
# 136 against 90 ms at 1024, for 4,096 tokens, forward and backward).
_FUSED_FROM = 1024


class RMSNorm(nn.Module):
    """Scale to unit root mean square over the last axis, then by a learned gain."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [..., C]."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


def rotary_table(shape: Shape, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines of [..., L] positions as two [..., 1, L, D] tables, in the half-split convention."""
    half = shape.head_width // 2
    frequency = shape.rope_theta ** (-torch.arange(half, device=positions.device, dtype=torch.float32) / half)
    angle = positions[..., None, :, None].float() * frequency
    cosine, sine = angle.cos(), angle.sin()
    return torch.cat((cosine, cosine), -1).to(dtype), torch.cat((-sine, sine), -1).to(dtype)


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the heads in x [B, H, L, D] by the angles of ``rotary_table``."""
    cosine, sine = table
    return x * cosine + x.roll(x.shape[-1] // 2, dims=-1) * sine


class Layer(nn.Module):
    """One pre-norm decoder layer: grouped-query attention with query and key norms, then a SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, head = shape.width, shape.head_width
        self.shape = shape
        self.input_layernorm = RMSNorm(width, shape.eps)
        self.q_proj = nn.Linear(width, shape.heads * head, bias=False)
        self.k_proj = nn.Linear(width, shape.kv_heads * head, bias=False)
        self.v_proj = nn.Linear(width, shape.kv_heads * head, bias=False)
        self.o_proj = nn.Linear(shape.heads * head, width, bias=False)
        self.q_norm = RMSNorm(head, shape.eps)
        self.k_norm = RMSNorm(head, shape.eps)
        self.post_attention_layernorm = RMSNorm(width, shape.eps)
        self.gate_proj = nn.Linear(width, shape.ffn, bias=False)
        self.up_proj = nn.Linear(width, shape.ffn, bias=False)
        self.down_proj = nn.Linear(shape.ffn, width, bias=False)

    def forward(self, x: Tensor, table: tuple[Tensor, Tensor], bias: Tensor, cache: "Cache | None" = None) -> Tensor:
        """Advance x [B, L, C]; ``bias`` [B, 1, L, T] is 0 where a position may look and very negative elsewhere."""
        x = x + self.o_proj(self._attend(self.input_layernorm(x), table, bias, cache))
        h = self.post_attention_layernorm(x)
        down: Tensor = self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))
        return x + down

    def _attend(self, h: Tensor, table: tuple[Tensor, Tensor], bias: Tensor, cache: "Cache | None") -> Tensor:
        rows, length, _ = h.shape
        heads, groups, width = self.shape.heads, self.shape.kv_heads, self.shape.head_width
        q = rotate(self.q_norm(self.q_proj(h).view(rows, length, heads, width)).transpose(1, 2), table)
        k = rotate(self.k_norm(self.k_proj(h).view(rows, length, groups, width)).transpose(1, 2), table)
        v = self.v_proj(h).view(rows, length, groups, width).transpose(1, 2)
        if cache is not None:
            k, v = cache.extend(self, k, v)
        if cache is None and length >= _FUSED_FROM:
            return self._fused(q, k, v, bias)
        # The query heads of one group share their keys: fold them into the query axis instead of repeating keys.
        folded = q.reshape(rows, groups, heads // groups * length, width)
        scores = folded @ k.transpose(-1, -2) * width**-0.5
        scores = scores.view(rows, heads, length, -1) + bias
        weights = torch.softmax(scores, dim=-1).view(rows, groups, heads // groups * length, -1)
        mixed = (weights.to(v.dtype) @ v).view(rows, heads, length, width)
        flat: Tensor = mixed.transpose(1, 2).reshape(rows, length, heads * width)
        return flat

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        repeats = self.shape.heads // self.shape.kv_heads
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
        mixed: Tensor = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return mixed.transpose(1, 2).flatten(2)


class Cache:
    """Keys and values of the positions already decoded, per layer."""

    def __init__(self) -> None:
        self._entries: dict[int, tuple[Tensor, Tensor]] = {}

    def extend(self, layer: Layer, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append k and v [B, G, L, D] of one layer and return everything so far [B, G, T, D]."""
        if id(layer) in self._entries:
            past_k, past_v = self._entries[id(layer)]
            k, v = torch.cat((past_k, k), 2), torch.cat((past_v, v), 2)
        self._entries[id(layer)] = (k, v)
        return k, v

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but the given indices."""
        self._entries = {name: (k[rows], v[rows]) for name, (k, v) in self._entries.items()}


class Amuse(nn.Module):
    """Embedding, layers, final norm; the output head is the embedding transposed."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.width, shape.eps)
        self._initialise()

    def _initialise(self) -> None:
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        for name, weight in self.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                residual = "o_proj" in name or "down_proj" in name
                depth = (2 * self.shape.layers) ** 0.5 if residual else 1.0
                nn.init.normal_(weight, std=0.5 / weight.shape[1] ** 0.5 / depth)

    def forward(self, tokens: Tensor, positions: Tensor, bias: Tensor, cache: Cache | None = None) -> Tensor:
        """Hidden states [B, L, C] of tokens [B, L] at the given positions [B, L]."""
        x = self.embed_tokens(tokens)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        table = rotary_table(self.shape, positions, x.dtype)
        bias = bias.to(x.dtype)
        for layer in self.layers:
            x = layer(x, table, bias, cache)
        hidden: Tensor = self.norm(x)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores over the vocabulary [..., V] of hidden states [..., C]."""
        return F.linear(hidden, self.embed_tokens.weight.to(hidden.dtype))
