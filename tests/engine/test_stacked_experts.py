"""Tensors that hold all experts, seen as one tensor for each expert."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from servery.engine.checkpoint import Checkpoint
from servery.engine.stacked_experts import unstacked
from servery.engine.traits import Stack

STACKS = (
    Stack("mlp.experts.up", "mlp.experts.{}.up.weight", is_transposed=True),
    Stack("mlp.experts.up_bias", "mlp.experts.{}.up.bias"),
)


def test_each_expert_has_its_part_and_other_tensors_are_left_alone(tmp_path: Path) -> None:
    up, bias = torch.arange(24.0).view(2, 3, 4), torch.arange(8.0).view(2, 4)
    tensors = {
        "model.layers.10.mlp.experts.up": up,
        "model.layers.10.mlp.experts.up_bias": bias,
        "model.norm.weight": torch.ones(3),
        "mlp.experts.up": torch.zeros(1, 1),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    with Checkpoint.find(tmp_path).open() as stored:
        found = unstacked(stored, STACKS)
        assert set(found) == {
            "model.norm.weight",
            "mlp.experts.up",
            *(f"model.layers.10.mlp.experts.{e}.up.{part}" for e in range(2) for part in ("weight", "bias")),
        }
        second = found["model.layers.10.mlp.experts.1.up.weight"]
        assert (second.name, second.path) == ("model.layers.10.mlp.experts.up[1]", tmp_path / "model.safetensors")
        assert (second.shape, second.dtype, second.nbytes) == ((4, 3), "F32", 48)
        assert torch.equal(second.load(), up[1].t())
        assert torch.equal(found["model.layers.10.mlp.experts.0.up.bias"].load(), bias[0])
        assert found["model.norm.weight"] is stored["model.norm.weight"]
