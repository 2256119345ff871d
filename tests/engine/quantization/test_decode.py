import pytest
import torch

from servery.engine.quantization.decode import codebook_values, float8_values


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_8_bit_float_is_converted_exactly(dtype):
    bits = torch.arange(256, dtype=torch.uint8)
    codes = bits[(bits & 127) != 127].view(torch.float8_e4m3fn)
    assert torch.equal(float8_values(codes, dtype), codes.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_pair_of_codes_names_its_values(dtype):
    values = torch.randn(16, generator=torch.Generator().manual_seed(2)).to(dtype)
    packed = torch.arange(256, dtype=torch.uint8).view(2, 128)
    expected = [[value for byte in row for value in (values[byte % 16], values[byte // 16])] for row in packed.tolist()]
    assert torch.equal(codebook_values(packed, values), torch.tensor(expected, dtype=dtype))
