"""What stands between matrix products, each in one launch: the residual sum with its norm, gates, roundings."""

import torch
import triton
from torch import Tensor

from servery.engine.cuda.kernels import rowwise
from servery.engine.traits import GELU_TANH, SILU, Clamp

# A program has a whole row, of which each thread takes so many values.
_VALUES_PER_WARP = 1024
_GATE_BLOCK = 1024
_ACTIVATIONS = {SILU: rowwise.SILU, GELU_TANH: rowwise.GELU_TANH}


class FusedNorm:
    """`RMSNorm` over rows, with the sum that comes before it. `scaled` and `floor` are those of `RMSNorm`."""

    __slots__ = ("_block", "_floor", "_scaled", "_warps")

    def __init__(self, scaled: Tensor, floor: float) -> None:
        self._scaled = scaled
        self._floor = floor
        self._block = triton.next_power_of_2(scaled.shape[-1])
        self._warps = min(16, max(1, self._block // _VALUES_PER_WARP))

    def __call__(self, hidden: Tensor, part: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The norm of `hidden + part` [rows, size], and that sum; `hidden` itself where there is no part."""
        normed = torch.empty(hidden.shape, dtype=hidden.dtype, device=hidden.device)
        summed = hidden if part is None else torch.empty_like(normed)
        given = hidden if part is None else part
        rowwise.add_and_normalize[(len(hidden),)](
            normed,
            summed,
            hidden,
            given,
            self._scaled,
            self._floor,
            normed.stride(0),
            summed.stride(0),
            hidden.stride(0),
            given.stride(0),
            SIZE=hidden.shape[1],
            BLOCK=self._block,
            HAS_PART=part is not None,
            num_warps=self._warps,
        )
        return normed, summed


def gated(gate_up: Tensor, activation: str | Clamp) -> Tensor:
    """`activation(gate) * up` [rows, size] for [rows, 2 * size], as `GatedMLP` combines them."""
    rows, size = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, size)
    is_clamp = isinstance(activation, Clamp)
    rowwise.gate[(rows, triton.cdiv(size, _GATE_BLOCK))](
        out,
        gate_up,
        gate_up.stride(0),
        activation.alpha if isinstance(activation, Clamp) else 1.0,
        activation.limit if isinstance(activation, Clamp) else 1.0,
        SIZE=size,
        BLOCK=_GATE_BLOCK,
        ACTIVATION=rowwise.CLAMP if is_clamp else _ACTIVATIONS[str(activation)],
        num_warps=4,
    )
    return out


def rounded_to_float8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes float8 e4m3 [rows, K] and scales float32 [rows, 1]: x is nearly codes * scales."""
    codes = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    scales = torch.empty(len(x), 1, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(x.shape[1])
    warps = min(16, max(1, block // _VALUES_PER_WARP))
    rowwise.round_rows[(len(x),)](codes, scales, x, x.stride(0), SIZE=x.shape[1], BLOCK=block, num_warps=warps)
    return codes.view(torch.float8_e4m3fn), scales
