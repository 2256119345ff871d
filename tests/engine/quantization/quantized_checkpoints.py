"""Small quantized checkpoints of random codes, packed from each format's definition, with the values that they mean.

A packer takes the shape [N, K] of a weight and gives the stored tensors by suffix, and the values as float32. Packing
is written as loops over codes, dequantizing with numpy, so that neither shares anything with what is tested.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Packed = tuple[dict[str, Tensor], Tensor]
Packer = Callable[[tuple[int, int], np.random.Generator], Packed]

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


@dataclass(frozen=True)
class Quantized:
    """A quantized checkpoint, a dense one of the same values, and these values by module."""

    path: Path
    dense: Path
    values: dict[str, Tensor]


def is_projection(name: str) -> bool:
    """Whether the stored tensor is a linear layer's inside a transformer layer; routers stay as they are."""
    return name.endswith(("_proj.weight", "_proj_with_mqa.weight")) or (
        ".experts." in name and name.endswith(".weight")
    )


def write(source: Path, folder: Path, pack: Packer, config: dict[str, Any], chosen: Any = is_projection) -> Quantized:
    """The dense checkpoint in `source` with other weights, quantized into `folder`/quantized and dense beside it."""
    generator = np.random.default_rng(7)
    dense = dict(load_file(source / "model.safetensors"))
    stored, values = dict(dense), {}
    for name in sorted(filter(chosen, dense)):
        module = name.removesuffix(".weight")
        rows, columns = dense[name].shape
        tensors, values[module] = pack((rows, columns), generator)
        del stored[name]
        stored |= {f"{module}.{suffix}": tensor for suffix, tensor in tensors.items()}
        dense[name] = values[module].contiguous()
    plain = json.loads((source / "config.json").read_text())
    written = Quantized(folder / "quantized", folder / "dense", values)
    for path, tensors, settings in (
        (written.path, stored, plain | {"quantization_config": config}),
        (written.dense, dense, plain),
    ):
        path.mkdir(parents=True)
        save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
        (path / "config.json").write_text(json.dumps(settings))
    return written


def packed_words(codes: np.ndarray, bits: int, order: tuple[int, ...] | None = None) -> Tensor:
    """Codes [R, C] into words [R, C * bits / 32] int32: place i of a word holds column order[i] of its share."""
    places = 32 // bits
    order = order or tuple(range(places))
    words = np.zeros((codes.shape[0], codes.shape[1] // places), dtype=np.uint32)
    for word in range(words.shape[1]):
        for place in range(places):
            words[:, word] |= codes[:, word * places + order[place]].astype(np.uint32) << np.uint32(place * bits)
    return torch.from_numpy(words.view(np.int32).copy())


def _half_scales(shape: tuple[int, ...], largest_code: int, generator: np.random.Generator) -> np.ndarray:
    """float16, so that weights are about as large as in the checkpoints that tests use."""
    return (generator.uniform(0.2, 1.0, shape) * 0.6 / largest_code).astype(np.float16)


def awq(group_size: int | None) -> Packer:
    """AutoAWQ, 4 bits."""

    def pack(shape: tuple[int, int], generator: np.random.Generator) -> Packed:
        rows, columns = shape
        size = group_size or columns
        codes = generator.integers(0, 16, (columns, rows))
        zeros = generator.integers(0, 16, (columns // size, rows))
        scales = _half_scales(zeros.shape, 16, generator)
        stored = {
            "qweight": packed_words(codes, 4, AWQ_ORDER),
            "qzeros": packed_words(zeros, 4, AWQ_ORDER),
            "scales": torch.from_numpy(scales),
        }
        group = np.arange(columns) // size
        values = (codes - zeros[group]).astype(np.float16) * scales[group]
        return stored, torch.from_numpy(values.T.astype(np.float32))

    return pack


def gptq(
    bits: int, group_size: int | None, *, version: str = "gptq", is_ordered: bool = False, is_symmetric: bool = False
) -> Packer:
    """AutoGPTQ and GPTQModel; ordered: each input channel is of any group, as act-order leaves them."""

    def pack(shape: tuple[int, int], generator: np.random.Generator) -> Packed:
        rows, columns = shape
        size = group_size or columns
        codes = generator.integers(0, 2**bits, (columns, rows))
        zeros = generator.integers(0, 2**bits, (columns // size, rows))
        if is_symmetric:
            zeros[:] = 2 ** (bits - 1)
        scales = _half_scales(zeros.shape, 2**bits, generator)
        group = np.arange(columns) // size
        group = generator.permutation(group) if is_ordered else group
        kept = (zeros - 1) % 2**bits if version == "gptq" else zeros
        stored = {
            "qweight": packed_words(codes.T, bits).T.contiguous(),
            "qzeros": packed_words(kept, bits),
            "scales": torch.from_numpy(scales),
            "g_idx": torch.from_numpy(group.astype(np.int32)),
        }
        values = scales[group] * (codes - zeros[group]).astype(np.float16)
        return stored, torch.from_numpy(values.T.astype(np.float32))

    return pack


def float8(scale_name: str, layout: str | tuple[int, int], *, scale_dtype: torch.dtype = torch.float32) -> Packer:
    """8-bit floats with scales for the tensor, for each row, or for each block (rows, columns)."""

    def pack(shape: tuple[int, int], generator: np.random.Generator) -> Packed:
        rows, columns = shape
        codes = torch.from_numpy(generator.normal(0, 60, shape)).to(torch.float8_e4m3fn)
        block = (rows, columns) if layout == "tensor" else (1, columns) if layout == "row" else layout
        assert isinstance(block, tuple)
        scale_shape = (-(-rows // block[0]), -(-columns // block[1]))
        scales = torch.from_numpy(generator.uniform(0.5, 2.0, scale_shape) * 0.15 / 60).to(scale_dtype)
        stored = {"weight": codes, scale_name: scales.reshape(()) if layout == "tensor" else scales}
        numbers = scales.float().numpy()
        values = codes.float().numpy().copy()
        for row in range(rows):
            for column in range(columns):
                values[row, column] *= numbers[row // block[0], column // block[1]]
        return stored, torch.from_numpy(values)

    return pack


def nf4(block_size: int, *, is_nested: bool, original: torch.dtype, storage: torch.dtype = torch.uint8) -> Packer:
    """bitsandbytes, with plain scales or with scales that are quantized again."""

    def pack(shape: tuple[int, int], generator: np.random.Generator) -> Packed:
        count = shape[0] * shape[1]
        codes = generator.integers(0, 16, count)
        blocks = -(-count // block_size)
        state: dict[str, Any] = {"quant_type": "nf4", "blocksize": block_size, "shape": list(shape)}
        state["dtype"] = str(original).removeprefix("torch.")
        absmax = generator.uniform(0.1, 0.4, blocks).astype(np.float32)
        nested = {}
        if is_nested:
            bytes_ = generator.integers(0, 256, blocks).astype(np.uint8)
            table = np.sort(generator.uniform(-1, 1, 256)).astype(np.float32)
            outer = generator.uniform(0.05, 0.15, -(-blocks // 256)).astype(np.float32)
            state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": float(np.float32(0.2))}
            absmax = table[bytes_] * outer[np.arange(blocks) // 256] + np.float32(0.2)
            nested = {"weight.nested_absmax": outer, "weight.nested_quant_map": table, "weight.absmax": bytes_}
        values = np.array(NF4, dtype=np.float32)[codes] * absmax[np.arange(count) // block_size]
        packed = ((codes[0::2] << 4) | codes[1::2]).astype(np.uint8)
        stored = {"weight.absmax": absmax, "weight.quant_map": np.array(NF4, dtype=np.float32)} | nested
        stored["weight.quant_state.bitsandbytes__nf4"] = np.frombuffer(json.dumps(state).encode(), np.uint8).copy()
        tensors = {suffix: torch.from_numpy(array) for suffix, array in stored.items()}
        tensors["weight"] = torch.from_numpy(packed).view(storage).unsqueeze(1)
        return tensors, torch.from_numpy(values).view(shape).to(original).float()

    return pack


def int8_rows() -> Packer:
    """bitsandbytes, 8 bits."""

    def pack(shape: tuple[int, int], generator: np.random.Generator) -> Packed:
        codes = generator.integers(-127, 128, shape).astype(np.int8)
        largest = generator.uniform(0.2, 0.6, shape[0]).astype(np.float32)
        values = codes.astype(np.float32) * largest[:, None] * np.float32(7.874015718698502e-3)
        stored = {"weight": codes, "SCB": largest, "weight_format": np.array(0, dtype=np.uint8)}
        return {name: torch.from_numpy(np.asarray(array)) for name, array in stored.items()}, torch.from_numpy(values)

    return pack
