"""What the package compressed-tensors writes is read as the package itself reads it, bit for bit."""

from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme

from servery.engine.architecture import ModelConfig
from servery.engine.quantization.matrix import GroupMatrix
from servery.engine.weights import open_weights
from tests.engine import checkpoints
from tests.engine.quantization import quantized_checkpoints as packers
from tests.engine.quantization.stored_matrices import logits, stored_matrices

INT8_PER_TOKEN = {"num_bits": 8, "type": "int", "dynamic": True, "strategy": "token", "symmetric": True}
FLOAT8_PER_TOKEN = INT8_PER_TOKEN | {"type": "float"}
INT4 = {"num_bits": 4, "type": "int"}
INT8 = {"num_bits": 8, "type": "int"}
FLOAT8 = {"num_bits": 8, "type": "float", "symmetric": True}
GROUP = {"strategy": "group", "group_size": 16}

SCHEMES: dict[str, dict[str, Any]] = {
    "w4a16": {"format": "pack-quantized", "weights": INT4 | GROUP | {"symmetric": True}},
    "w4a16_asymmetric": {"format": "pack-quantized", "weights": INT4 | GROUP | {"symmetric": False}},
    "w4a16_channel": {"format": "pack-quantized", "weights": INT4 | {"strategy": "channel", "symmetric": True}},
    "w8a16": {"format": "pack-quantized", "weights": INT8 | GROUP | {"symmetric": True}},
    "w8a16_channel_asymmetric": {
        "format": "pack-quantized",
        "weights": INT8 | {"strategy": "channel", "symmetric": False},
    },
    "w8a16_plain": {"format": "int-quantized", "weights": INT8 | {"strategy": "channel", "symmetric": True}},
    "w8a16_naive_tensor": {"format": "naive-quantized", "weights": INT8 | {"strategy": "tensor", "symmetric": True}},
    "w8_asymmetric": {"format": "int-quantized", "weights": INT8 | GROUP | {"symmetric": False}},
    "w4_in_bytes": {"format": "int-quantized", "weights": INT4 | GROUP | {"symmetric": True}},
    "fp8_tensor": {
        "format": "float-quantized",
        "weights": FLOAT8 | {"strategy": "tensor"},
        "input_activations": FLOAT8 | {"strategy": "tensor", "dynamic": False},
    },
    "fp8_channel": {
        "format": "float-quantized",
        "weights": FLOAT8 | {"strategy": "channel"},
        "input_activations": FLOAT8_PER_TOKEN,
    },
    "fp8_block": {
        "format": "float-quantized",
        "weights": FLOAT8 | {"strategy": "block", "block_structure": [48, 48]},
        "input_activations": FLOAT8_PER_TOKEN,
    },
}
W8A8 = {
    "format": "int-quantized",
    "weights": INT8 | {"strategy": "channel", "symmetric": True},
    "input_activations": INT8_PER_TOKEN,
}


def packer(scheme: dict[str, Any], scale_dtype: torch.dtype) -> packers.Packer:
    """Random weights, quantized and packed by the package, which also says what they then are."""
    theirs = QuantizationScheme(targets=["Linear"], **scheme)
    compressor = BaseCompressor.get_value_from_registry(scheme["format"])

    def pack(shape: tuple[int, int], generator: np.random.Generator) -> packers.Packed:
        weight = torch.from_numpy(generator.normal(0, 0.15, shape)).float()
        state = {"weight": weight.to(scale_dtype)} | _scales(theirs.weights, shape, generator, scale_dtype)
        stored = compressor.compress(state, theirs)
        values = compressor.decompress(stored, theirs)["weight"].float()
        if scheme["format"] == "float-quantized" and scheme["input_activations"].get("dynamic") is False:
            stored["input_scale"] = torch.ones(1)
        return {name: tensor.contiguous() for name, tensor in stored.items()}, values

    return pack


def _scales(
    weights: Any, shape: tuple[int, int], generator: np.random.Generator, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    rows, columns = shape
    of_strategy = {"tensor": (1,), "channel": (rows, 1), "group": (rows, columns // 16)}
    if weights.strategy == "block":
        height, width = weights.block_structure
        of_strategy["block"] = (-(-rows // height), -(-columns // width))
    extent = of_strategy[weights.strategy]
    largest = 448 if weights.type == "float" else 2 ** (weights.num_bits - 1)
    state = {"weight_scale": torch.from_numpy(generator.uniform(0.3, 0.6, extent) / largest).to(dtype)}
    if not weights.symmetric:
        points = generator.integers(-largest, largest, extent)
        state["weight_zero_point"] = torch.from_numpy(points.astype(np.int8))
    return state


def config(scheme: dict[str, Any], **changes: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"]} | scheme
    plain = {"quant_method": "compressed-tensors", "format": scheme["format"], "ignore": ["lm_head"]}
    return plain | {"config_groups": {"group_0": group}} | changes


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return checkpoints.save(checkpoints.qwen3(), tmp_path_factory.mktemp("dense"))


@pytest.mark.parametrize("scale_dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", SCHEMES)
def test_weights_are_what_the_package_reads_bit_for_bit(name, scale_dtype, dense, tmp_path):
    scheme = SCHEMES[name]
    written = packers.write(dense, tmp_path, packer(scheme, scale_dtype), config(scheme))
    found = stored_matrices(written.path)
    assert set(found) == set(written.values)
    assert [module for module, values in written.values.items() if not torch.equal(found[module], values)] == []


@pytest.mark.parametrize("name", ["w4a16_asymmetric", "w8_asymmetric", "fp8_block"])
def test_a_model_runs_like_a_dense_one_of_the_same_values(name, dense, tmp_path):
    written = packers.write(dense, tmp_path, packer(SCHEMES[name], torch.float16), config(SCHEMES[name]))
    torch.testing.assert_close(logits(written.path), logits(written.dense), rtol=1e-5, atol=1e-4)


def test_modules_of_one_checkpoint_may_have_schemes_of_their_own_or_none(dense, tmp_path):
    """Queries and keys in 4 bits, values in 8, so that one layer has parts of two layouts; the first layer is dense."""

    def scheme_of(module: str) -> str:
        return "w8a16_plain" if module.endswith(("v_proj", "down_proj")) else "w4a16"

    def is_chosen(name: str) -> bool:
        return packers.is_projection(name) and ".layers.0." not in name

    names = iter(sorted(filter(is_chosen, _names(dense))))
    packs = {name: packer(SCHEMES[name], torch.float16) for name in ("w4a16", "w8a16_plain")}

    def pack(shape: tuple[int, int], generator: np.random.Generator) -> packers.Packed:
        return packs[scheme_of(next(names).removesuffix(".weight"))](shape, generator)

    groups = {
        "most": {"targets": ["Linear"]} | SCHEMES["w4a16"],
        "some": {"targets": ["re:.*v_proj$", "re:.*down_proj$"]} | SCHEMES["w8a16_plain"],
    }
    settings = config(SCHEMES["w4a16"], format="mixed-precision", config_groups=groups)
    settings["ignore"] = ["lm_head", r"re:model\.layers\.0\..*"]
    written = packers.write(dense, tmp_path, pack, settings, is_chosen)
    found = stored_matrices(written.path)
    assert set(found) == set(written.values)
    assert [module for module, values in written.values.items() if not torch.equal(found[module], values)] == []
    torch.testing.assert_close(logits(written.path), logits(written.dense), rtol=1e-5, atol=1e-4)


def _names(path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path / "model.safetensors", "pt") as file:
        return list(file.keys())


@pytest.mark.parametrize("is_dynamic", [True, False])
def test_w8a8_rounds_inputs_and_stays_near_the_dense_model(is_dynamic, dense, tmp_path):
    inputs = INT8_PER_TOKEN if is_dynamic else INT8_PER_TOKEN | {"dynamic": False, "strategy": "tensor"}
    scheme = W8A8 | {"input_activations": inputs}
    written = packers.write(dense, tmp_path, packer(W8A8, torch.float32), config(scheme))
    with open_weights(written.path, ModelConfig.load(written.path), torch.float32) as reader:
        parts = [part for held in reader.read(1).matrices.values() for part in held]
    assert all(isinstance(part, GroupMatrix) and part.rounds_input for part in parts)
    rounded, plain = logits(written.path), logits(written.dense)
    assert not torch.equal(rounded, plain)
    assert (rounded - plain).abs().max() < 0.1 * plain.abs().max()
