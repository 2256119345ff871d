"""How far a stored key or value may be from the exact one, derived from the definition of each format."""

import torch

from servery.engine.kv_format import BFLOAT16, FLOAT32, FP8, INT8, KVFormat

# The division that makes a code is rounded once in float32.
_SLACK = 1 + 2**-20


def largest_error(values: torch.Tensor, scales: torch.Tensor, kv_format: KVFormat) -> torch.Tensor:
    """float64 [..., head_dim] for exact `values` of that shape and the `scales` [...] stored with them.

    int8: codes are whole numbers, so half of a scale. fp8: half of the last of three bits of mantissa is a sixteenth
    of the value; below the smallest normal number, 2^-6, codes are 2^-9 apart. bfloat16: eight bits, rounded.
    """
    scales = scales.double().unsqueeze(-1) if scales.numel() else scales
    if kv_format is INT8:
        return (scales / 2 * _SLACK).expand(values.shape)
    if kv_format is FP8:
        return torch.maximum(values.abs() / 16, scales * 2**-10) * _SLACK
    return {FLOAT32: 2**-24, BFLOAT16: 2**-8}[kv_format] * values.abs()
