"""MXFP4 experts of gpt-oss against transformers, bit for bit, and against the model of the values that they mean."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from servery.engine.architecture import ModelConfig
from servery.engine.errors import LoadError
from servery.engine.loader import load_model
from servery.engine.weights import open_weights
from tests.engine import checkpoints
from tests.engine.quantization.stored_matrices import logits, stored_matrices

CONFIG = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
EXPERTS = ("gate_up_proj", "down_proj")


def packed(shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random blocks and scales for values [..., rows, columns], small enough for a model to run on."""
    *rows, columns = shape
    blocks = torch.randint(0, 256, (*rows, columns // 32, 16), generator=generator, dtype=torch.uint8)
    return blocks, torch.randint(121, 126, blocks.shape[:-1], generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    """A checkpoint with packed experts, and one with the values that transformers makes of them."""
    dense, small = tmp_path_factory.mktemp("dense"), tmp_path_factory.mktemp("mxfp4")
    checkpoints.save(checkpoints.gpt_oss(), dense)
    values = load_file(dense / "model.safetensors")
    stored, generator = dict(values), torch.Generator().manual_seed(5)
    for name in [name for name in values if name.endswith(EXPERTS)]:
        count, inputs, outputs = values[name].shape
        blocks, scales = packed((count, outputs, inputs), generator)
        values[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.bfloat16).float().contiguous()
        del stored[name]
        stored |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    save_file(values, dense / "model.safetensors")
    write(small, stored, json.loads((dense / "config.json").read_text()))
    return small, dense


def write(path: Path, tensors: dict[str, Tensor], config: dict[str, object]) -> Path:
    (path / "config.json").write_text(json.dumps(config | {"quantization_config": CONFIG}))
    save_file(tensors, path / "model.safetensors")
    return path


def test_values_are_those_of_transformers(pair):
    small, dense = pair
    values = load_file(dense / "model.safetensors")
    expected = {
        f"model.layers.{layer}.mlp.experts.{expert}.{name}": part.t()
        for layer in range(3)
        for name in EXPERTS
        for expert, part in enumerate(values[f"model.layers.{layer}.mlp.experts.{name}"])
    }
    found = stored_matrices(small)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_model_is_that_of_these_values(pair):
    small, dense = pair
    expected = logits(dense)
    assert float((logits(small) - expected).abs().max() / expected.abs().max()) <= 1e-5


def test_experts_stay_packed_in_memory(pair):
    small, _ = pair
    model = load_model(small, ModelConfig.load(small), torch.float32)
    values, biases, codebooks = 15 * 3 * 64 * 96, 15 * (2 * 96 + 64) * 4, 15 * 2 * 16 * 2
    unread = model.weight_bytes - model.read_bytes(0)
    assert unread == values // 2 + values // 32 + biases + codebooks


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gate_up_proj_scales": None}, r"lacks tensor model\.layers\.1\.mlp\.experts\.0\.gate_up_proj\.scales"),
        (
            {"down_proj_blocks": (5, 64, 2, 16)},
            r"down_proj_blocks\[0\] has shape \[64, 2, 16\]; .* must be \[64, 3, 16\]",
        ),
        ({"gate_up_proj_blocks": (4, 192, 2, 16)}, r"lacks tensor model\.layers\.1\.mlp\.experts\.4\.gate_up_proj"),
        ({"down_proj_scales": (6, 64, 3)}, r"experts\.5\.down_proj\.scales has no place|down_proj_scales\[5\]"),
    ],
)
def test_a_damaged_checkpoint_names_file_and_tensor(pair, change, message, tmp_path):
    small, _ = pair
    tensors = load_file(small / "model.safetensors")
    for name, shape in change.items():
        del tensors[f"model.layers.1.mlp.experts.{name}"]
        if shape is not None:
            tensors[f"model.layers.1.mlp.experts.{name}"] = torch.full(shape, 120, dtype=torch.uint8)
    write(tmp_path, tensors, json.loads((small / "config.json").read_text()))
    config = ModelConfig.load(tmp_path)
    with pytest.raises(LoadError, match=message), open_weights(tmp_path, config, torch.float32) as reader:
        reader.read(1)


def test_columns_that_are_no_whole_groups_are_refused(pair, tmp_path):
    small, _ = pair
    tensors = load_file(small / "model.safetensors")
    config = json.loads((small / "config.json").read_text()) | {"intermediate_size": 80}
    for name in [name for name in tensors if name.endswith("gate_up_proj_bias")]:
        tensors[name] = tensors[name][:, :160].contiguous()
    for name in [name for name in tensors if "gate_up_proj_" in name and not name.endswith("bias")]:
        tensors[name] = tensors[name][:, :160].contiguous()
    write(tmp_path, tensors, config)
    with (
        pytest.raises(LoadError, match=r"has 80 channels, but .*down_proj\.blocks packs 32 together"),
        open_weights(tmp_path, ModelConfig.load(tmp_path), torch.float32) as reader,
    ):
        reader.read(0)
