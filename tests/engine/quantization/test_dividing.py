"""Of a matrix in any format a part is read alone: its values are those of the whole, and what it does not need stays unread."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import quantize
from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.cut import Cut
from servery.engine.parallel.part import Ranks
from servery.engine.quantization.checkpoint_format import read_format
from servery.engine.quantization.dividing import CutTensor, divide, rows_by
from servery.engine.quantization.format import StoredModule
from servery.engine.quantization.gguf_format import GgufFormat
from servery.engine.quantization.matrix_parts import select
from servery.engine.weights import open_weights
from tests.engine import checkpoints
from tests.engine.parallel import threads
from tests.engine.quantization import quantized_checkpoints as packers
from tests.engine.quantization import test_compressed_tensors as compressed
from tests.engine.quantization.test_stored_formats import CASES

SHAPE = (64, 128)
CUTS = {
    "rows": Cut(rows=(slice(16, 48),)),
    "rows of three": Cut(rows=(slice(0, 16), slice(32, 48), slice(48, 64))),
    "columns": Cut(columns=slice(64, 128)),
    "first columns": Cut(columns=slice(0, 32)),
}
NAMES = {torch.int32: "I32", torch.int8: "I8", torch.uint8: "U8", torch.int64: "I64", torch.float16: "F16"}
NAMES |= {torch.bfloat16: "BF16", torch.float32: "F32", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e8m0fnu: "F8_E8M0"}


@dataclass(frozen=True)
class InMemory:
    """A `StoredTensor` whose data are there."""

    name: str
    values: Tensor
    path: Path = Path("model.safetensors")

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    @property
    def dtype(self) -> str:
        return NAMES[self.values.dtype]

    @property
    def nbytes(self) -> int:
        return self.values.nbytes

    def load(self) -> Tensor:
        return self.values


def module(tensors: dict[str, Tensor]) -> StoredModule:
    return StoredModule("m", {key: InMemory(f"m.{key}", values) for key, values in tensors.items()}, Path("file"))


def format_of(config: dict, folder: Path):
    (folder / "config.json").write_text(json.dumps({"quantization_config": config}))
    return read_format(folder)


def all_formats() -> dict:
    schemes = {
        f"compressed_{name}": (compressed.packer(scheme, torch.bfloat16), compressed.config(scheme))
        for name, scheme in compressed.SCHEMES.items()
    }
    return {name: (case.pack, case.config) for name, case in CASES.items()} | schemes


@pytest.mark.parametrize("cut", CUTS.values(), ids=list(CUTS))
@pytest.mark.parametrize("name", all_formats())
def test_a_part_has_the_values_of_the_whole_and_is_read_alone(name: str, cut: Cut, tmp_path: Path) -> None:
    pack, config = all_formats()[name]
    weight_format = format_of(config, tmp_path)
    tensors, _ = pack(SHAPE, np.random.default_rng(3))
    whole, stored = module(tensors), module(tensors)
    part = weight_format.divided(stored, SHAPE, cut)
    if part is None:  # one run of blocks without rows; blocks that the borders go through
        assert "nf4" in name or "block" in name
        return
    expected = select(weight_format.matrix("m", SHAPE, whole), cut.rows, cut.columns)
    found = weight_format.matrix("m", part.shape, part)
    assert found.shape == expected.shape == cut.shape(SHAPE)
    assert torch.equal(found.dequantize(torch.float32), expected.dequantize(torch.float32))
    assert type(found) is type(expected)
    assert found.nbytes <= expected.nbytes
    assert stored.used == whole.used
    share = found.shape[0] * found.shape[1] / (SHAPE[0] * SHAPE[1])
    codes = max(tensor.nbytes for tensor in tensors.values())
    assert part.used_bytes <= whole.used_bytes - (1 - share) * codes


@pytest.mark.parametrize(
    "name", ["awq", "gptq", "gptq_act_order", "gptq_8bit", "fp8_by_block", "fp8_by_channel", "bitsandbytes_int8"]
)
def test_formats_that_are_packed_anew_are_divided_both_ways(name: str, tmp_path: Path) -> None:
    pack, config = all_formats()[name]
    tensors, _ = pack(SHAPE, np.random.default_rng(3))
    for cut in CUTS.values():
        assert format_of(config, tmp_path).divided(module(tensors), SHAPE, cut) is not None


@dataclass(frozen=True)
class Blocks(InMemory):
    """As of a GGUF file: `shape` is that of the values, the data are blocks."""

    kind: str = "Q8_0"

    @property
    def shape(self) -> tuple[int, ...]:
        return SHAPE

    @property
    def dtype(self) -> str:
        return self.kind


@pytest.mark.parametrize("cut", CUTS.values(), ids=list(CUTS))
def test_blocks_of_a_gguf_file_are_read_alone(cut: Cut) -> None:
    values = np.random.default_rng(3).normal(size=SHAPE).astype(np.float32)
    blocks = torch.from_numpy(quantize(values, GGMLQuantizationType.Q8_0)).view(SHAPE[0], SHAPE[1] // 32, 34)
    stored = StoredModule("m", {"weight": Blocks("m.weight", blocks)}, Path("file"))
    part = GgufFormat().divided(stored, SHAPE, cut)
    assert part is not None
    found, whole = GgufFormat().matrix("m", part.shape, part), GgufFormat().matrix("m", SHAPE, stored)
    expected = select(whole, cut.rows, cut.columns)
    assert torch.equal(found.dequantize(torch.float32), expected.dequantize(torch.float32))
    assert part.used_bytes * SHAPE[0] * SHAPE[1] == stored.used_bytes * part.shape[0] * part.shape[1]
    assert GgufFormat().divided(stored, SHAPE, Cut(columns=slice(0, 16))) is None


def test_borders_within_what_is_stored_as_one_are_left_to_who_reads_all(tmp_path: Path) -> None:
    tensors, _ = packers.awq(16)(SHAPE, np.random.default_rng(3))
    weight_format = format_of(CASES["awq"].config, tmp_path)
    assert weight_format.divided(module(tensors), SHAPE, Cut(rows=(slice(0, 12),))) is None
    assert weight_format.divided(module(tensors), SHAPE, Cut(columns=slice(0, 24))) is None
    assert weight_format.divided(module(tensors), (60, 128), Cut(rows=(slice(0, 16),))) is None  # not what is stored


def test_the_last_place_may_be_narrower() -> None:
    tensor = InMemory("t", torch.arange(5))
    (found,) = (divide({"t": tensor}, (18, 1), Cut(rows=(slice(8, 18),)), {"t": (rows_by(4),)}) or {}).values()
    assert isinstance(found, CutTensor)
    assert (found.shape, found.load().tolist(), found.nbytes) == ((3,), [2, 3, 4], 24)


@pytest.mark.parametrize("name", ["awq", "gptq", "gptq_act_order"])
def test_no_process_reads_the_codes_of_another(name: str, tmp_path: Path) -> None:
    """Of the files each of two that share layers reads about half; only what is small is read by both."""
    source = checkpoints.save(checkpoints.qwen2(intermediate_size=128), tmp_path / "source")
    written = packers.write(source, tmp_path, CASES[name].pack, CASES[name].config)
    config = ModelConfig.load(written.path)
    with open_weights(written.path, config, torch.float32) as reader:
        for layer in (None, *range(config.num_layers)):
            reader.read(layer)
        whole = reader.read_bytes
    for ranks in (Ranks(2), Ranks(1, 3), Ranks(2, 3)):
        _, read = threads.load(written.path, ranks)
        assert ranks.pipeline > 1 or max(read) < 0.6 * whole
        assert whole <= sum(read) < 1.15 * whole
