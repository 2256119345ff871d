import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from servery.engine.architecture import ModelConfig
from servery.engine.batch import Batch
from servery.engine.errors import LoadError
from servery.engine.kv import KVCache
from servery.engine.loader import load_model
from servery.engine.quantization.scheme import plan_rounding
from servery.engine.quantizer.quantizer import Quantizer
from tests.engine import checkpoints

TOKENS = torch.randint(3, 250, (8, 48), generator=torch.Generator().manual_seed(2)).tolist()
# A matrix with 112 input features, which no group size divides, would be rounded to 8 bits.
SHAPE = {"intermediate_size": 128}


def _logits(model):
    rows = [(tokens, 0, list(range(3 * index, 3 * index + 3))) for index, tokens in enumerate(TOKENS)]
    cache = KVCache(model.config, 3 * len(TOKENS), 16, model.dtype)
    return model.logits(model.forward(Batch.build(rows, 16), cache))


def _load(path, scheme=None, method=None, dtype=torch.float32, **options):
    config = ModelConfig.load(path)
    if scheme is None:
        return load_model(path, config, dtype)
    plan = plan_rounding(config, scheme, method=method, **options)
    return load_model(path, config, dtype, quantizer=Quantizer(config, plan, TOKENS if plan.method == "awq" else None))


def _error(path, *options, **more):
    """The relative error of the logits against full precision."""
    exact = _logits(_load(path))
    return float((_logits(_load(path, *options, **more)) - exact).norm() / exact.norm())


@pytest.mark.parametrize("name", checkpoints.MODELS)
def test_every_architecture_computes_nearly_the_same_in_int8(name, tmp_path):
    path = checkpoints.save(checkpoints.MODELS[name](), tmp_path)
    exact, rounded = _logits(_load(path)), _logits(_load(path, "int8"))
    # By row: where experts are close, a token may go to another one.
    errors = (rounded - exact).norm(dim=1) / exact.norm(dim=1)
    assert 0 < float(errors.median()) < 0.05


@pytest.mark.parametrize("name", ["qwen3", "phi3", "qwen3_moe"])
def test_fp8_loses_more_than_int8_and_less_than_int4(name, tmp_path):
    """Three bits of mantissa instead of seven, but for small numbers as for large ones."""
    path = checkpoints.save(checkpoints.MODELS[name](**SHAPE), tmp_path)
    assert 0 < _error(path, "int8") < _error(path, "fp8") < _error(path, "int4", "round")


def _with_outliers(path):
    """Some channels of the layers' inputs are far larger than the others, as in every large model."""
    tensors = {name: tensor.clone() for name, tensor in load_file(path / "model.safetensors").items()}
    for name, tensor in tensors.items():
        if name.endswith("layernorm.weight"):
            tensor[5::16] *= 40
        if name.endswith(("q_proj.weight", "k_proj.weight", "gate_proj.weight", "up_proj.weight", "v_proj.weight")):
            tensor[:, 5::16] /= 20
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_awq_loses_far_less_than_rounding_where_channels_stick_out(scheme, tmp_path):
    path = checkpoints.save(checkpoints.llama2(**SHAPE), tmp_path)
    _with_outliers(path)
    plain, aware = _error(path, scheme, "round"), _error(path, scheme, "awq")
    assert aware < 0.6 * plain


def test_smaller_groups_lose_less(tmp_path):
    path = checkpoints.save(checkpoints.llama2(hidden_size=128, intermediate_size=256), tmp_path)
    errors = [_error(path, "int4", "round", group_size=size) for size in (32, 64, 128)]
    assert errors == sorted(errors)
    assert _error(path, "int8") < errors[0] / 4


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize("make", [checkpoints.qwen3, checkpoints.qwen3_moe, checkpoints.phi3])
def test_the_bytes_held_are_those_planned(make, scheme, tmp_path):
    path = checkpoints.save(make(), tmp_path)
    config = ModelConfig.load(path)
    dense = _load(path, dtype=torch.bfloat16).weight_bytes - config.weight_bytes(2)
    plan = plan_rounding(config, scheme)
    held = _load(path, scheme, "round", torch.bfloat16).weight_bytes
    # Norms are kept as float32, whatever is quantized; layers may hold scales and zero points as they multiply by them.
    assert held - plan.weight_bytes(config, 2) == pytest.approx(dense, abs=0.03 * held)


def test_the_same_checkpoint_gives_the_same_weights_each_time(tmp_path):
    path = checkpoints.save(checkpoints.qwen3(**SHAPE), tmp_path)
    assert torch.equal(_logits(_load(path, "int4")), _logits(_load(path, "int4")))


def test_a_model_in_bfloat16_is_scaled_as_well_as_one_in_float32(tmp_path):
    """What is calibrated on is computed in float32, whatever the model will compute in."""
    path = checkpoints.save(checkpoints.llama2(**SHAPE), tmp_path)
    _with_outliers(path)
    exact = _logits(_load(path))
    errors = {}
    for method in ("round", "awq"):
        found = _logits(_load(path, "int4", method, torch.bfloat16))
        errors[method] = float((found - exact).norm() / exact.norm())
    assert errors["awq"] < 0.6 * errors["round"]


def _edit(path, change):
    tensors = {name: tensor.clone() for name, tensor in load_file(path / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_by_name(value, tmp_path):
    path = checkpoints.save(checkpoints.qwen3(), tmp_path)
    _edit(path, lambda tensors: tensors["model.layers.1.mlp.up_proj.weight"].fill_(value))
    with pytest.raises(LoadError, match=r"^model.layers.1.mlp.up_proj holds values that are not finite"):
        _load(path, "int8")


def test_weights_that_are_quantized_already_are_refused_by_name(tmp_path):
    path = checkpoints.save(checkpoints.qwen3(), tmp_path)
    config = json.loads((path / "config.json").read_text())
    scheme = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    groups = {"group_0": {"targets": ["model.layers.2.mlp.up_proj"], "weights": scheme}}
    method = {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": groups, "ignore": []}
    (path / "config.json").write_text(json.dumps(config | {"quantization_config": method}))

    def store_as_codes(tensors):
        weight = tensors.pop("model.layers.2.mlp.up_proj.weight")
        tensors["model.layers.2.mlp.up_proj.weight"] = weight.mul(100).to(torch.int8)
        tensors["model.layers.2.mlp.up_proj.weight_scale"] = torch.full((len(weight), 1), 0.01)

    _edit(path, store_as_codes)
    assert _load(path).weight_bytes > 0
    with pytest.raises(
        LoadError, match=r"^model.layers.2.mlp.up_proj is stored quantized already; the model can be served"
    ):
        _load(path, "int8")
