"""Whole models: a GGUF file computes what the checkpoint that it was made of computes."""

import dataclasses
import math
import os
import shutil
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file, save_file

from servery.engine.architecture import ModelConfig
from servery.engine.batch import Batch
from servery.engine.errors import LoadError
from servery.engine.kv import KVCache
from servery.engine.loader import load_model
from servery.engine.weights import open_weights
from tests.engine import checkpoints
from tests.engine.checkpoints import MODELS
from tests.engine.gguf.exporter import export

# Those whose every fact a GGUF file can state.
EXPORTED = {
    **{
        name: MODELS[name]
        for name in (
            "llama2", "llama_with_biases", "llama3", "llama_linear_rope", "llama_yarn_rope", "qwen2", "qwen3",
            "qwen3_tied", "gemma", "glm4", "glm4_whole_rope", "granite", "granite_with_biases", "olmo2", "phi3", "phi4_mini",
            "qwen3_moe",
        )
    },
    "mistral": lambda: checkpoints.mistral(sliding_window=None),
    "mixtral": lambda: checkpoints.mixtral(sliding_window=None),
    "gemma2": lambda: checkpoints.gemma2(query_pre_attn_scalar=32),
    "gemma3": lambda: checkpoints.gemma3(query_pre_attn_scalar=32),
    "gemma3_linear_rope": lambda: checkpoints.gemma3(
        query_pre_attn_scalar=32,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    "smollm3": lambda: checkpoints.smollm3(no_rope_layer_interval=4, num_hidden_layers=5),
}  # fmt: skip


@pytest.fixture(scope="module", params=EXPORTED)
def pair(request, tmp_path_factory):
    """A checkpoint's folder and the GGUF file made of it."""
    folder = checkpoints.save(EXPORTED[request.param](), tmp_path_factory.mktemp(request.param))
    return folder, export(folder, folder / "model.gguf")


def logits(path, dtype=torch.float32):
    model = load_model(path, ModelConfig.load(path), dtype)
    cache = KVCache(model.config, 12, 16, model.dtype)
    tokens = torch.randint(3, 256, (150,), generator=torch.Generator().manual_seed(1)).tolist()
    return model.logits(model.forward(Batch.build([(tokens, 0, list(range(12)))], 16), cache))


def test_its_config_is_that_of_the_checkpoint(pair):
    """But for llama3's way to rotate, which a file tells by its factors."""
    folder, file = pair
    expected, found = ModelConfig.load(folder), ModelConfig.load(file)
    if expected.ropes[0].kind == "llama3":
        expected = dataclasses.replace(expected, ropes=found.ropes)
    of_mistral = {"architecture": "LlamaForCausalLM"} if expected.architecture == "MistralForCausalLM" else {}
    expected = dataclasses.replace(expected, **of_mistral, dtype=None)
    rounded = {"norm_eps", "residual_scale", "attention_scale", "ropes"}  # float32 in the file
    exact = {name: getattr(found, name) for name in expected.__dataclass_fields__ if name not in rounded}
    assert exact == {name: getattr(expected, name) for name in exact}
    near = [dataclasses.replace(each, ropes=()) for each in (found, expected)]
    assert [getattr(near[0], name) for name in rounded] == [pytest.approx(getattr(near[1], name)) for name in rounded]
    for ours, theirs in zip(found.ropes, expected.ropes, strict=True):
        assert dataclasses.astuple(ours) == tuple(map(about, dataclasses.astuple(theirs)))


def about(value):
    """Floats as float32 has them."""
    if isinstance(value, tuple):
        return tuple(map(about, value))
    return pytest.approx(value) if isinstance(value, float) else value


def test_its_logits_are_those_of_the_checkpoint(pair):
    folder, file = pair
    expected = logits(folder)
    assert float((logits(file) - expected).abs().max() / expected.abs().max()) <= 1e-5


# ---------------------------------------------------------------- quantized


def random_matrix(name, rows, columns, seed):
    """Blocks of any codes whose scales make weights of a usual size, and the values that the package gguf gives them."""
    rng = np.random.default_rng(seed)
    values, size = gguf.GGML_QUANT_SIZES[Kind[name]]
    raw = rng.integers(0, 256, (rows, columns // values, size), dtype=np.uint8)
    scale = {"Q6_K": 2e-5, "Q4_K": 4e-4, "Q5_K": 2e-4, "Q8_0": 2e-3, "Q2_K": 4e-3}.get(name, 1e-2)
    for at in {"Q6_K": (208,), "Q2_K": (80, 82), "Q4_K": (0, 2), "Q5_K": (0, 2)}.get(name, (0,)):
        raw[..., at : at + 2] = np.array([scale], np.float16).view(np.uint8)
    raw = raw.reshape(rows, -1)
    return raw, gguf.quants.dequantize(raw, Kind[name])


@pytest.fixture(scope="module")
def packed_pair(tmp_path_factory):
    """A Llama as Q4_K_M stores one (kinds differ between query and value), and a checkpoint with the same values."""
    folder = tmp_path_factory.mktemp("packed")
    shape = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "num_hidden_layers": 2}
    checkpoints.save(checkpoints.llama2(**shape, num_key_value_heads=2), folder)
    tensors = load_file(folder / "model.safetensors")
    kinds = {"v_proj": "Q6_K", "down_proj": "Q5_K", "embed_tokens": "Q6_K", "o_proj": "Q8_0", "up_proj": "Q2_K"}
    blocks = {}
    for seed, name in enumerate(name for name, tensor in tensors.items() if tensor.ndim == 2):
        kind = kinds.get(name.split(".")[-2], "Q4_K")
        raw, values = random_matrix(kind, *tensors[name].shape, seed)
        blocks[name] = (raw, kind)
        tensors[name] = torch.from_numpy(unpermuted(values, name, 4, 2))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, export(folder, folder / "model.gguf", blocks=blocks)


def unpermuted(values, name, heads, kv_heads):
    """Rows as transformers has them, from rows in the order of the file."""
    count = {"q_proj": heads, "k_proj": kv_heads}.get(name.split(".")[-2])
    if count is None:
        return values
    return values.reshape(count, -1, 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)


def test_packed_weights_compute_what_their_values_compute(packed_pair):
    folder, file = packed_pair
    expected = logits(folder)
    assert float((logits(file) - expected).abs().max() / expected.abs().max()) <= 1e-5


def test_packed_weights_stay_packed(packed_pair):
    _, file = packed_pair
    config = ModelConfig.load(file)
    with open_weights(file, config, torch.float32) as reader:
        weights = reader.read(0)
        first = reader.total_bytes
    bits = {key: [8 * part.nbytes / math.prod(part.shape) for part in parts] for key, parts in weights.matrices.items()}
    assert bits == {"qkv": [4.625, 4.625, 8.5625], "output": [8.5], "gate_up": [4.625, 32.0], "down": [8.625]}
    assert first == load_model(file, config, torch.float32).weight_bytes


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_every_kind_loads(kind, tmp_path):
    """Rows of 64 values, of which none divides into blocks of 256; those of 112 come as F16."""
    folder = checkpoints.save(checkpoints.qwen3(), tmp_path)
    expected = logits(folder)
    found = logits(export(folder, tmp_path / "model.gguf", kind))
    limit = {"F16": 0.01, "BF16": 0.05, "Q8_0": 0.1}.get(kind, 1.0)
    assert float((found - expected).abs().max() / expected.abs().max()) <= limit


def test_a_split_model_is_one_model(tmp_path):
    folder = checkpoints.save(checkpoints.qwen3(), tmp_path)
    export(folder, tmp_path / "model.gguf", split_max_tensors=7)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert len(parts) > 3
    assert torch.equal(logits(parts[2]), logits(folder))


def test_experts_may_lie_in_a_tensor_each(tmp_path):
    folder = checkpoints.save(EXPORTED["mixtral"](), tmp_path)
    assert torch.equal(logits(export(folder, tmp_path / "old.gguf", splits_experts=True)), logits(folder))


def test_the_files_may_change_once_the_model_is_loaded(packed_pair, tmp_path):
    file = Path(shutil.copy(packed_pair[1], tmp_path))
    config = ModelConfig.load(file)
    model, other = (load_model(file, config, torch.float32) for _ in range(2))
    file.write_bytes(bytes(file.stat().st_size))
    tokens = Batch.build([(list(range(3, 40)), 0, [2, 0, 3])], 16)
    results = [each.logits(each.forward(tokens, KVCache(config, 4, 16, torch.float32))) for each in (model, other)]
    assert torch.equal(*results)
    assert bool(results[0].abs().max() > 0)


# ---------------------------------------------------------------- what is refused


@pytest.fixture
def small(tmp_path):
    return checkpoints.save(checkpoints.qwen3(), tmp_path)


def refusal(path):
    with pytest.raises(LoadError) as caught:
        load_model(path, ModelConfig.load(path), torch.float32)
    return str(caught.value)


def test_a_missing_tensor_is_named_as_in_the_file(small):
    path = export(small, small / "m.gguf", leave_out="blk.1.ffn_down.weight")
    assert refusal(path) == f"{path} lacks tensor blk.1.ffn_down.weight. Download it again."


def test_a_tensor_without_a_place_is_named(small):
    path = export(
        small, small / "m.gguf", change=lambda writer: writer.add_tensor("blk.0.extra.weight", np.ones(3, np.float32))
    )
    assert refusal(path).startswith(f"{path} has tensor blk.0.extra.weight, which has no place in the model")


def test_a_tensor_of_another_shape_is_refused(small):
    path = export(small, small / "m.gguf", change=lambda writer: writer.add_uint32("qwen3.feed_forward_length", 96))
    assert "tensor blk.0.ffn_gate.weight has shape [112, 64]; by the metadata it must be [96, 64]" in refusal(path)


def test_tensors_beyond_the_end_of_the_file_are_refused_before_any_is_read(small):
    path = export(small, small / "m.gguf")
    size = path.stat().st_size
    os.truncate(path, size - 1000)
    assert f"{path} has {size - 1000} bytes, but tensor " in refusal(path)
    assert "It is truncated: download it again." in refusal(path)


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        (99, "has the type 99, which this version of the package gguf does not know"),
        (12, "has rows of 64 values; those of type Q4_K come in blocks of 256. The file is damaged."),
    ],
)
def test_a_type_that_cannot_be_is_refused(kind, complaint, small):
    path = export(small, small / "m.gguf")
    name = b"blk.2.attn_q.weight"
    data = path.read_bytes()
    at = data.index(name) + len(name) + 4 + 2 * 8
    path.write_bytes(data[:at] + struct.pack("<I", kind) + data[at + 4 :])
    assert f"{path}: tensor blk.2.attn_q.weight {complaint}" in refusal(path)


def test_a_type_that_nobody_can_decode_is_refused_by_name(small):
    raw = np.zeros((128, 64), np.int8)
    path = export(small, small / "m.gguf", blocks={"model.layers.0.self_attn.q_proj.weight": (raw, "I8")})
    assert "tensor blk.0.attn_q.weight is stored as I8, which cannot be read; supported are F32, F16, BF16, Q8_0" in (
        refusal(path)
    )
