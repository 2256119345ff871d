"""A quantized checkpoint that is damaged, or that config.json describes otherwise, is refused with file and tensor."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from servery.engine.architecture import ModelConfig
from servery.engine.errors import LoadError
from servery.engine.loader import load_model
from tests.engine import checkpoints
from tests.engine.quantization import quantized_checkpoints as packers
from tests.engine.quantization.test_compressed_tensors import SCHEMES, config, packer
from tests.engine.quantization.test_stored_formats import CASES

UP = "model.layers.1.mlp.up_proj"
STATE = "weight.quant_state.bitsandbytes__nf4"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Each format once; tests take copies."""
    dense = checkpoints.save(checkpoints.qwen3(), tmp_path_factory.mktemp("dense"))
    folder = tmp_path_factory.mktemp("written")
    found: dict[str, Path] = {}
    for name in ("awq", "gptq", "gptq_act_order", "fp8_by_block", "fp8_by_channel", "nf4_nested", "bitsandbytes_int8"):
        found[name] = packers.write(dense, folder / name, CASES[name].pack, CASES[name].config).path
    for name in ("w4a16_asymmetric", "w8_asymmetric", "fp8_channel"):
        pack = packer(SCHEMES[name], torch.float16)
        found[name] = packers.write(dense, folder / name, pack, config(SCHEMES[name])).path
    return found


def damaged(source: Path, folder: Path, change: dict[str, Any] | None = None, **settings: Any) -> Path:
    """A copy with tensors of one module replaced (None: left out), and fields of quantization_config."""
    fields = json.loads((source / "config.json").read_text())
    fields["quantization_config"] |= settings
    (folder / "config.json").write_text(json.dumps(fields))
    tensors = dict(load_file(source / "model.safetensors"))
    for suffix, tensor in (change or {}).items():
        tensors[f"{UP}.{suffix}"] = tensor(tensors.get(f"{UP}.{suffix}")) if callable(tensor) else tensor
    kept = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def refusal(path: Path) -> str:
    with pytest.raises(LoadError) as caught:
        load_model(path, ModelConfig.load(path), torch.float32)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("awq", "qweight"),
        ("awq", "qzeros"),
        ("awq", "scales"),
        ("gptq", "qzeros"),
        ("gptq_act_order", "g_idx"),
        ("fp8_by_block", "weight_scale_inv"),
        ("fp8_by_channel", "weight_scale"),
        ("nf4_nested", "weight"),
        ("nf4_nested", "weight.absmax"),
        ("nf4_nested", "weight.quant_map"),
        ("nf4_nested", STATE),
        ("bitsandbytes_int8", "SCB"),
        ("w4a16_asymmetric", "weight_packed"),
        ("w4a16_asymmetric", "weight_shape"),
        ("w4a16_asymmetric", "weight_zero_point"),
        ("w8_asymmetric", "weight_zero_point"),
        ("fp8_channel", "weight_scale"),
    ],
)
def test_a_missing_part_is_named(name, suffix, written, tmp_path):
    named = "weight_scale_inv" if name == "fp8_by_channel" else "weight" if suffix == "weight_packed" else suffix
    message = refusal(damaged(written[name], tmp_path, {suffix: None}))
    assert message == f"{tmp_path}/model.safetensors lacks tensor {UP}.{named}. Download the checkpoint again."


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("awq", {"qweight": torch.ones(64, 13, dtype=torch.int32)}, "shape [64, 13]; by config.json it must be [64, 14]"),
        ("awq", {"qzeros": torch.ones(3, 14, dtype=torch.int32)}, "shape [3, 14]; by config.json it must be [4, 14]"),
        ("awq", {"scales": torch.ones(4, 111)}, "shape [4, 111]; by config.json it must be [4, 112]"),
        ("awq", {"qweight": torch.ones(64, 14, dtype=torch.int64)}, "is stored as I64; in this format it must be I32"),
        ("awq", {"scales": torch.ones(4, 112, dtype=torch.int32)}, "is stored as I32; in this format it must be BF16 or"),
        ("awq", {"weight": torch.ones(112, 64)}, f"tensor {UP}.weight has no place in the model"),
        ("awq", {"scales": torch.full((4, 112), torch.nan)}, f"tensor {UP}.scales has values that are no finite numbers"),
        ("gptq", {"scales": torch.full((4, 112), torch.inf)}, f"tensor {UP}.scales has values that are no finite"),
        ("fp8_by_channel", {"weight_scale": torch.full((112, 1), torch.nan)}, f"tensor {UP}.weight_scale has values that"),
        ("bitsandbytes_int8", {"SCB": torch.full((112,), torch.nan)}, f"tensor {UP}.SCB has values that are no finite"),
        ("gptq", {"g_idx": torch.arange(64).int() // 15}, f"tensor {UP}.g_idx names groups 0 to 4, but there are 4, "),
        ("gptq", {"g_idx": torch.arange(64).int() - 1}, f"tensor {UP}.g_idx names groups -1 to 62, but there are 4, "),
        ("gptq", {"g_idx": torch.zeros(63).int()}, "shape [63]; by config.json it must be [64]"),
        ("gptq", {"bias": torch.ones(112)}, f"tensor {UP}.bias has no place in the model"),
        ("fp8_by_block", {"weight_scale_inv": torch.ones(7, 5)}, "shape [7, 5]; by config.json it must be [7, 4]"),
        ("fp8_by_block", {"weight": torch.ones(112, 64, dtype=torch.int8)}, "is stored as I8; weights must be F32"),
        ("fp8_by_block", {"weight": torch.full((112, 64), torch.nan).to(torch.float8_e4m3fn)}, "are not numbers"),
        ("fp8_by_channel", {"weight_scale": torch.ones(64)}, "shape [64]; by config.json it must be [112, 1], or [1] for"),
        ("nf4_nested", {"weight": torch.ones(10, 1, dtype=torch.uint8)}, "holds 10 bytes; by config.json it must be 3584"),
        ("nf4_nested", {"weight.absmax": torch.ones(112)}, "is stored as F32; in this format it must be U8"),
        ("nf4_nested", {"weight.quant_map": torch.ones(17)}, "shape [17]; by config.json it must be [16]"),
        ("nf4_nested", {STATE: torch.tensor(list(b"{")).byte()}, f"tensor {UP}.{STATE} is not valid JSON: "),
        ("nf4_nested", {STATE: torch.tensor(list(b"[]")).byte()}, f"tensor {UP}.{STATE} must hold a JSON object."),
        (
            "nf4_nested",
            {STATE: torch.tensor(list(b'{"shape": [64, 112]}')).byte()},
            f"{UP}.{STATE}.shape is [64, 112]; by config.json it must be [112, 64].",
        ),
        (
            "nf4_nested",
            {STATE: torch.tensor(list(b'{"shape": [112, 64], "blocksize": 64, "dtype": "int8"}')).byte()},
            f"{UP}.{STATE}.nested_offset is missing; it must be a number.",
        ),
        ("nf4_nested", {STATE: torch.tensor(list(b"[" * 100_000)).byte()}, f"tensor {UP}.{STATE} is not valid JSON: "),
        ("bitsandbytes_int8", {"SCB": torch.ones(64)}, "shape [64]; by config.json it must be [112]"),
        ("w4a16_asymmetric", {"weight_shape": torch.tensor([112, 60])}, "weight_shape is [112, 60]; by config.json it"),
        ("w4a16_asymmetric", {"weight_scale": torch.ones(112, 8)}, "shape [112, 8]; by config.json it must be [112, 4]"),
        ("w8_asymmetric", {"weight_zero_point": torch.ones(112, 4)}, "is stored as F32; in this format it must be I8"),
        ("fp8_channel", {"weight_zero_point": torch.ones(112, 1)}, "weight_zero_point must be 0 for weights in 8-bit"),
        ("fp8_channel", {"weight_g_idx": torch.ones(64)}, f"tensor {UP}.weight_g_idx has no place in the model"),
    ],
)  # fmt: skip
def test_a_part_that_does_not_fit_is_told_with_what_must_be_there(name, change, message, written, tmp_path):
    text = refusal(damaged(written[name], tmp_path, change))
    assert text.startswith(f"{tmp_path}/model.safetensors: ")
    assert message in text


@pytest.mark.parametrize("name", ["awq", "gptq"])
def test_groups_that_do_not_divide_are_refused(name, written, tmp_path):
    message = refusal(damaged(written[name], tmp_path, group_size=24))
    assert message.endswith(
        "has 64 input channels, which groups of 24 (quantization_config in config.json) do not divide."
    )


def test_layers_that_do_not_fill_words_are_refused(tmp_path):
    dense = checkpoints.save(checkpoints.qwen3(intermediate_size=100), tmp_path / "source")

    def is_up(name: str) -> bool:
        return name == f"{UP}.weight"

    case = CASES["awq_by_channel"]
    quantized = packers.write(dense, tmp_path, lambda shape, random: _cut(case.pack, shape, random), case.config, is_up)
    message = refusal(quantized.path)
    assert message.endswith(
        f"has 100 channels, but {UP}.qweight packs 8 together; layers with a remainder are not supported."
    )


def _cut(pack: packers.Packer, shape: tuple[int, int], random: Any) -> packers.Packed:
    return pack((shape[0] // 8 * 8, shape[1]), random)


@pytest.mark.parametrize(
    ("name", "field", "suffix"),
    [
        ("awq", "modules_to_not_convert", "qweight"),
        ("gptq", "modules_to_not_convert", "qweight"),
        ("fp8_by_block", "modules_to_not_convert", "weight"),
        ("nf4_nested", "llm_int8_skip_modules", STATE),
        ("bitsandbytes_int8", "llm_int8_skip_modules", "weight"),
        ("w8_asymmetric", "ignore", "weight"),
    ],
)
def test_a_module_that_config_json_leaves_out_must_not_be_quantized(name, field, suffix, written, tmp_path):
    message = refusal(damaged(written[name], tmp_path, **{field: [UP]}))
    assert message == (
        f"{tmp_path}/model.safetensors: tensor {UP}.{suffix} holds quantized weights, but quantization_config in "
        f"config.json leaves {UP} out. The weights and config.json belong to different models."
    )


@pytest.mark.parametrize("name", ["awq", "fp8_by_block", "nf4_nested", "w4a16_asymmetric"])
def test_a_truncated_file_is_called_damaged(name, written, tmp_path):
    file = damaged(written[name], tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert refusal(tmp_path).startswith(f"{file} is damaged (")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fp8_by_channel", "unless config.json has a quantization_config that says how they are quantized"),
        ("gptq", "is stored as g_idx, qweight, qzeros, scales, which is quantized, but config.json has no"),
    ],
)
def test_codes_without_a_quantization_config_are_refused(name, message, written, tmp_path):
    path = damaged(written[name], tmp_path)
    fields = json.loads((path / "config.json").read_text())
    del fields["quantization_config"]
    (path / "config.json").write_text(json.dumps(fields))
    assert message in refusal(path)


def test_a_bias_of_zeros_that_the_architecture_lacks_is_passed_over(written, tmp_path):
    """AutoGPTQ stores one for every layer."""
    path = damaged(written["gptq"], tmp_path, {"bias": torch.zeros(112, dtype=torch.float16)})
    load_model(path, ModelConfig.load(path), torch.float32)


def test_scales_of_activations_and_of_the_cache_are_passed_over(written, tmp_path):
    """Inputs of FP8 layers are not rounded, and the cache has its own flag."""
    extra = {"input_scale": torch.ones(()), "k_scale": torch.ones(1)}
    path = damaged(written["fp8_by_channel"], tmp_path, extra, activation_scheme="static")
    load_model(path, ModelConfig.load(path), torch.float32)
