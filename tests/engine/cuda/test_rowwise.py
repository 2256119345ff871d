"""The small kernels between matrix products, against the operations that they stand for."""

import pytest
import torch

from servery.engine.cuda.rowwise import FusedNorm, gated, rounded_to_float8
from servery.engine.linear import DenseLinear
from servery.engine.mlp import GatedMLP
from servery.engine.norm import RMSNorm
from servery.engine.traits import GELU_TANH, SILU, Clamp

# Of numpy, which the interpreter computes with.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-7}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)


def randn(*size: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(sum(size))).to(dtype)


@DTYPES
@pytest.mark.parametrize("size", [24, 100])
def test_the_sum_and_its_norm_are_as_one_after_the_other(dtype: torch.dtype, size: int) -> None:
    hidden, part = randn(3, size, dtype=dtype), randn(4, size, dtype=dtype)[1:]
    norm = RMSNorm(randn(size, dtype=dtype), 1e-5, 1.0)
    normed, summed = FusedNorm(norm.scaled, float(norm.floor))(hidden, part)
    assert torch.equal(summed, hidden + part)
    torch.testing.assert_close(normed, norm(hidden + part), rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_without_a_part_it_is_the_norm_alone() -> None:
    hidden = randn(2, 48, dtype=torch.float32)[:, :40]
    norm = RMSNorm(randn(40, dtype=torch.float32), 1e-5)
    normed, summed = FusedNorm(norm.scaled, float(norm.floor))(hidden)
    assert summed is hidden
    torch.testing.assert_close(normed, norm(hidden), rtol=2e-6, atol=2e-6)


@DTYPES
@pytest.mark.parametrize("activation", [SILU, GELU_TANH, Clamp(1.702, 0.7)], ids=["silu", "gelu", "clamp"])
def test_a_gate_is_as_the_mlp_combines(activation: str | Clamp, dtype: torch.dtype) -> None:
    gate_up = 3 * randn(3, 140, dtype=dtype)
    one = DenseLinear(torch.eye(70, dtype=dtype))
    expected = GatedMLP(DenseLinear(torch.eye(140, dtype=dtype)), one, activation)(gate_up.clone())
    torch.testing.assert_close(gated(gate_up, activation), expected, rtol=2 * TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_large_gates_do_not_overflow() -> None:
    gate_up = torch.tensor([[-1e4, 1e4, 1.0, 1.0]])
    for activation in (SILU, GELU_TANH):
        assert gated(gate_up, activation).tolist() == [[0.0, 1e4]]


def test_rows_are_rounded_to_float8_by_their_largest_magnitude() -> None:
    x = randn(4, 50, dtype=torch.bfloat16)
    x[2] = 0.0
    codes, scales = rounded_to_float8(x)
    largest = x.float().abs().amax(1, keepdim=True)
    torch.testing.assert_close(scales, (largest / 448).clamp(min=1e-30))
    assert torch.equal(codes.float(), (x.float() / scales).to(torch.float8_e4m3fn).float())
