"""Checkpoints in the formats of the ecosystem mean what their definitions say, bit for bit, and run like dense ones."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from servery.engine.architecture import ModelConfig
from servery.engine.llm import LLM
from servery.engine.request import SamplingParams
from servery.engine.weights import open_weights
from tests.engine import checkpoints
from tests.engine.quantization import quantized_checkpoints as packers
from tests.engine.quantization.quantized_checkpoints import Packer, Quantized
from tests.engine.quantization.stored_matrices import logits, stored_matrices


@dataclass(frozen=True)
class Case:
    pack: Packer
    config: dict[str, Any]


def _gptq(bits: int, group_size: int, *, version: str = "gptq", desc_act: bool = False, sym: bool = False) -> Case:
    size = None if group_size == -1 else group_size
    pack = packers.gptq(bits, size, version=version, is_ordered=desc_act, is_symmetric=sym)
    settings = {"bits": bits, "group_size": group_size, "desc_act": desc_act, "checkpoint_format": version}
    return Case(pack, {"quant_method": "gptq"} | settings)


def _fp8(layout: Any, **settings: Any) -> Case:
    name = "weight_scale_inv" if isinstance(layout, tuple) else "weight_scale"
    block = {"weight_block_size": list(layout)} if isinstance(layout, tuple) else {}
    return Case(packers.float8(name, layout, **settings), {"quant_method": "fp8"} | block)


def _nf4(block_size: int = 64, **settings: Any) -> Case:
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    return Case(packers.nf4(block_size, **{"is_nested": False, "original": torch.bfloat16} | settings), config)


AWQ = {"quant_method": "awq", "bits": 4, "zero_point": True, "version": "gemm"}
CASES = {
    "awq": Case(packers.awq(16), AWQ | {"group_size": 16}),
    "awq_by_channel": Case(packers.awq(None), AWQ | {"group_size": -1}),
    "gptq": _gptq(4, 16),
    "gptq_symmetric": _gptq(4, 16, sym=True),
    "gptq_v2": _gptq(4, 16, version="gptq_v2"),
    "gptq_act_order": _gptq(4, 16, desc_act=True),
    "gptq_8bit": _gptq(8, 16),
    "gptq_8bit_act_order_v2": _gptq(8, 16, version="gptq_v2", desc_act=True),
    "gptq_by_channel": _gptq(4, -1),
    "fp8_by_tensor": _fp8("tensor"),
    "fp8_by_channel": _fp8("row"),
    "fp8_by_block": _fp8((16, 16)),
    "fp8_blocks_that_end_early": _fp8((48, 48)),
    "fp8_blocks_larger_than_the_weight": _fp8((10**12, 10**12)),
    "fp8_bfloat16_scales": _fp8((16, 16), scale_dtype=torch.bfloat16),
    "fp8_exponent_scales": _fp8((16, 16), scale_dtype=torch.float8_e8m0fnu),
    "nf4": _nf4(),
    "nf4_nested": _nf4(is_nested=True),
    "nf4_in_one_block": _nf4(10**12),
    "nf4_of_float16": _nf4(is_nested=True, original=torch.float16),
    "nf4_in_bfloat16_storage": _nf4(storage=torch.bfloat16),
    "bitsandbytes_int8": Case(packers.int8_rows(), {"quant_method": "bitsandbytes", "load_in_8bit": True}),
}
ARCHITECTURES = {
    "qwen3": checkpoints.qwen3,  # q, k, v and gate, up are stored apart
    "qwen3_tied": checkpoints.qwen3_tied,
    "qwen2": checkpoints.qwen2,  # biases
    "glm4": checkpoints.glm4,  # heads are put in another order, gate and up are stored as one
    "phi3": checkpoints.phi3,  # q, k, v are stored as one
    "mixtral": checkpoints.mixtral,  # experts, and a router that is not quantized
    "qwen3_moe": lambda: checkpoints.qwen3_moe(moe_intermediate_size=48),
    # latent attention, one of whose matrices is taken apart
    "deepseek_v3": lambda: checkpoints.deepseek_v3(moe_intermediate_size=48, kv_lora_rank=48, v_head_dim=16),
}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: checkpoints.save(make(), tmp_path_factory.mktemp(name)) for name, make in ARCHITECTURES.items()}


def write(case: Case, source: Path, folder: Path, **changes: Any) -> Quantized:
    return packers.write(source, folder, case.pack, case.config | changes)


@pytest.mark.parametrize("name", CASES)
def test_weights_are_what_the_format_says_bit_for_bit_and_run_like_dense_ones(name, dense, tmp_path):
    written = write(CASES[name], dense["qwen3"], tmp_path)
    found = stored_matrices(written.path)
    assert set(found) == set(written.values)
    assert [module for module, values in written.values.items() if not torch.equal(found[module], values)] == []
    torch.testing.assert_close(logits(written.path), logits(written.dense), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["awq", "gptq_act_order", "fp8_by_block", "nf4_nested"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fused_reordered_tied_and_expert_layers_run_like_dense_ones(name, architecture, dense, tmp_path):
    written = write(CASES[name], dense[architecture], tmp_path)
    torch.testing.assert_close(logits(written.path), logits(written.dense), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["awq", "gptq", "fp8_by_channel", "nf4_nested"])
def test_a_head_may_be_quantized_and_a_layer_left_alone(name, dense, tmp_path):
    def is_chosen(tensor: str) -> bool:
        return tensor == "lm_head.weight" or (packers.is_projection(tensor) and ".layers.1." not in tensor)

    case = CASES[name]
    field = "llm_int8_skip_modules" if name == "nf4_nested" else "modules_to_not_convert"
    config = case.config | {field: ["model.layers.1"]}
    written = packers.write(dense["qwen3"], tmp_path, case.pack, config, is_chosen)
    found = stored_matrices(written.path)
    assert (set(found), "lm_head" in found) == (set(written.values), True)
    assert [module for module, values in written.values.items() if not torch.equal(found[module], values)] == []
    torch.testing.assert_close(logits(written.path), logits(written.dense), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["awq", "gptq_8bit", "fp8_by_channel", "nf4_nested", "bitsandbytes_int8"])
def test_the_files_may_change_once_the_model_is_loaded(name, dense, tmp_path):
    written = write(CASES[name], dense["qwen3"], tmp_path)
    config = ModelConfig.load(written.path)
    with open_weights(written.path, config, torch.float32) as reader:
        before = reader.read(0).matrices
        values = {key: [part.dequantize(torch.float32) for part in parts] for key, parts in before.items()}
    file = written.path / "model.safetensors"
    file.write_bytes(b"\0" * file.stat().st_size)
    for key, parts in before.items():
        assert all(map(torch.equal, values[key], [part.dequantize(torch.float32) for part in parts]))


@pytest.mark.parametrize("name", ["awq", "gptq", "fp8_by_block", "nf4"])
def test_weights_stay_packed_in_memory(name, dense, tmp_path):
    written = write(CASES[name], dense["qwen3"], tmp_path)
    config = ModelConfig.load(written.path)
    with open_weights(written.path, config, torch.float32) as reader:
        held = sum(part.nbytes for parts in reader.read(0).matrices.values() for part in parts)
    stored = sum(values.numel() for module, values in written.values.items() if ".layers.0." in module)
    bytes_per_value = 1.3 if name.startswith("fp8") else 0.8
    assert held <= bytes_per_value * stored


@pytest.mark.parametrize("scale_dtype", [torch.float32, torch.bfloat16, torch.float8_e8m0fnu], ids=str)
def test_blocks_of_8_bit_floats_mean_what_transformers_makes_of_them(scale_dtype):
    stored, values = packers.float8("weight_scale_inv", (16, 16), scale_dtype=scale_dtype)(
        (112, 64), np.random.default_rng(3)
    )
    theirs = Fp8Dequantize(None).convert(dict(stored))["weight"]
    assert torch.equal(values.to(theirs.dtype), theirs)


@pytest.mark.parametrize("name", ["awq", "gptq_act_order"])
def test_the_engine_answers_as_with_a_dense_checkpoint_of_the_same_values(name, tiny, tmp_path):
    written = write(CASES[name], tiny, tmp_path)
    for path in (written.path, written.dense):
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(tiny / file, path / file)
    params = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
    answers = [
        [
            generation.completions[0].text
            for generation in LLM(path, threads=1, max_model_len=128).generate(["hello", "this is a test"], params)
        ]
        for path in (written.path, written.dense)
    ]
    assert answers[0] == answers[1]
    assert all(answers[0])
