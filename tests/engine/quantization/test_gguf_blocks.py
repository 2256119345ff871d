"""GGUF's blocks against the package gguf, bit for bit."""

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind

from servery.engine.quantization.gguf_blocks import DECODERS, HELD_BITS
from servery.engine.quantization.matrix import stack_rows

# Where a block has float16 numbers, by byte; all other bytes may hold anything.
HALVES = {"Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}


def random_blocks(name, rows, blocks, seed=0):
    """Every code and every scale is possible, negative and subnormal ones too."""
    rng = np.random.default_rng(seed)
    _, size = gguf.GGML_QUANT_SIZES[Kind[name]]
    raw = rng.integers(0, 256, (rows, blocks, size), dtype=np.uint8)
    for at in HALVES.get(name, (0,)):
        halves = rng.integers(0, 1 << 16, (rows, blocks), dtype=np.uint16) & 0xBFFF  # finite
        raw[..., at : at + 2] = halves[..., None].view(np.uint8)
    return raw


def reference(raw, name):
    return gguf.quants.dequantize(raw.reshape(len(raw), -1), Kind[name])


def bits_of(values):
    return np.ascontiguousarray(values, np.float32).view(np.uint32)


@pytest.mark.parametrize("name", DECODERS)
def test_values_are_those_of_the_package_gguf_bit_for_bit(name):
    raw = random_blocks(name, 9, 3)
    matrix = DECODERS[name](torch.from_numpy(raw))
    assert np.array_equal(bits_of(matrix.dequantize(torch.float32).numpy()), bits_of(reference(raw, name)))


@pytest.mark.parametrize("name", DECODERS)
def test_a_matrix_takes_the_bits_per_weight_that_are_promised(name):
    matrix = DECODERS[name](torch.from_numpy(random_blocks(name, 4, 5)))
    rows, columns = matrix.shape
    assert matrix.nbytes * 8 / (rows * columns) == HELD_BITS[name]


@pytest.mark.parametrize("name", DECODERS)
def test_rows_can_be_chosen_and_stacked(name):
    raw = random_blocks(name, 6, 2)
    matrix = DECODERS[name](torch.from_numpy(raw))
    chosen = [matrix.select_rows(torch.tensor([5, 0])), matrix.select_rows(slice(2, 4))]
    stacked = stack_rows(chosen)
    expected = bits_of(reference(raw, name)[[5, 0, 2, 3]])
    assert np.array_equal(bits_of(stacked.dequantize(torch.float32).numpy()), expected)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("rows", [1, 2])
def test_a_matrix_does_not_share_the_memory_of_the_file(name, rows):
    blocks = torch.from_numpy(random_blocks(name, rows, 1))
    matrix = DECODERS[name](blocks)
    before = matrix.dequantize(torch.float32)
    blocks.fill_(7)
    assert torch.equal(matrix.dequantize(torch.float32), before)
