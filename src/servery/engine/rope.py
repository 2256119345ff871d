"""Rotary position embedding (RoFormer, arXiv 2104.09864) with the scalings that `RopeConfig` names."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from servery.engine.rope_config import RopeConfig

_FIRST_POSITIONS = 2048


class RopeTable:
    """Cosines and signed sines per position, computed once in float32 and grown on demand by doubling."""

    def __init__(
        self,
        config: RopeConfig,
        head_dim: int,
        max_position: int,
        dtype: torch.dtype,
        device: torch.device | None = None,
    ) -> None:
        rotary_dim = head_dim if config.rotary_dim is None else config.rotary_dim
        self._frequencies = inverse_frequencies(config, rotary_dim)
        self._still_pairs = (head_dim - rotary_dim) // 2
        self._attention_factor = config.attention_factor
        self._max_position = max_position
        self._dtype = dtype
        self._device = device
        self._table = self._compute(min(max_position, _FIRST_POSITIONS))

    def at(self, positions: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines, each [tokens, 1, head_dim], for `positions` [tokens], all below `longest`.

        The sines of the first half are negated, so that rotating is `x * cos + roll(x, head_dim / 2) * sin`.
        """
        cos, sin = self.table(longest).index_select(0, positions).unbind(1)
        return cos, sin

    def table(self, longest: int) -> Tensor:
        """Those of all positions below `longest`, and perhaps more: [positions, 2, 1, head_dim]."""
        if longest > len(self._table):
            self._table = self._compute(max(longest, min(2 * len(self._table), self._max_position)))
        return self._table

    def _compute(self, num_positions: int) -> Tensor:
        angles = torch.outer(torch.arange(num_positions, dtype=torch.float32), self._frequencies)
        cos, sin = angles.cos() * self._attention_factor, angles.sin() * self._attention_factor
        cos, sin = F.pad(cos, (0, self._still_pairs), value=1.0), F.pad(sin, (0, self._still_pairs))
        table = torch.stack((torch.cat((cos, cos), 1), torch.cat((-sin, sin), 1)), dim=1)
        return table.unsqueeze(2).to(self._device, self._dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Rotate `x` [tokens, heads, head_dim] by the angles that `RopeTable.at` gave, into `out`, which may be `x`."""
    torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin, out=out)


def head_order(config: RopeConfig, head_dim: int) -> Tensor | None:
    """Which stored dimension of a head goes where, int64 [head_dim]; None when all stay.

    `rotate` turns dimension i with i + head_dim / 2. Where a checkpoint pairs others, as when only part of a head
    rotates, the rows of its query and key weights are put in this order once, at load: scores are sums over a head,
    which no order changes. Pairs that stand still come last.
    """
    rotary_dim = head_dim if config.rotary_dim is None else config.rotary_dim
    if rotary_dim == 0 or (rotary_dim == head_dim and not config.interleaved):
        return None
    rotating = torch.arange(rotary_dim)
    first, second = (rotating[0::2], rotating[1::2]) if config.interleaved else rotating.view(2, -1)
    third, fourth = torch.arange(rotary_dim, head_dim).view(2, -1)
    return torch.cat((first, third, second, fourth))


def inverse_frequencies(config: RopeConfig, rotary_dim: int) -> Tensor:
    """Radians per position of each of the rotary_dim / 2 pairs, float32 [rotary_dim / 2]."""
    frequencies = 1.0 / (config.theta ** (torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim))
    if config.kind == "linear":
        return frequencies / config.factor
    if config.kind == "llama3":
        return _llama3(config, frequencies)
    if config.kind == "yarn":
        return _yarn(config, frequencies, rotary_dim)
    if config.kind == "longrope":
        return frequencies / torch.tensor(config.short_factors)
    return frequencies


def _llama3(config: RopeConfig, frequencies: Tensor) -> Tensor:
    """Slow pairs are slowed by `factor`, fast ones kept, those between blended by wavelength."""
    low_wavelength = config.original_max_position / config.low_freq_factor
    high_wavelength = config.original_max_position / config.high_freq_factor
    wavelengths = 2 * math.pi / frequencies
    blend = (config.original_max_position / wavelengths - config.low_freq_factor) / (
        config.high_freq_factor - config.low_freq_factor
    )
    blended = (1 - blend) * frequencies / config.factor + blend * frequencies
    slowed = torch.where(wavelengths > low_wavelength, frequencies / config.factor, blended)
    return torch.where(wavelengths < high_wavelength, frequencies, slowed)


def _yarn(config: RopeConfig, frequencies: Tensor, head_dim: int) -> Tensor:
    """Pairs that turn often over the original context are kept, those that turn rarely are slowed by `factor`."""
    low, high = _yarn_pair(config, config.beta_fast, head_dim), _yarn_pair(config, config.beta_slow, head_dim)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    span = high - low if high != low else 0.001
    slowed_share = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / span).clamp(0, 1)
    return frequencies / config.factor * slowed_share + frequencies * (1 - slowed_share)


def _yarn_pair(config: RopeConfig, rotations: float, head_dim: int) -> float:
    """The (fractional) index of the pair that makes `rotations` turns over the original context."""
    turns = math.log(config.original_max_position / (rotations * 2 * math.pi))
    return head_dim * turns / (2 * math.log(config.theta))
