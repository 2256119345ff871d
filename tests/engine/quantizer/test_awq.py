import pytest
import torch

from servery.engine.architecture import ModelConfig
from servery.engine.quantization.matrix import DenseMatrix
from servery.engine.quantization.scheme import Rounding
from servery.engine.quantizer.awq import LayerTensors, scale_layer
from servery.engine.quantizer.calibration import CalibrationRun
from servery.engine.weights import Weights, open_weights
from tests.engine import checkpoints

TOKENS = torch.randint(3, 250, (4, 48), generator=torch.Generator().manual_seed(2)).tolist()


def _rounding(weight):
    return Rounding(8) if weight.shape[1] % 32 else Rounding(4, 32)


def _layer(reader, index):
    """The weights of a layer, and the same memory as whole matrices that can be scaled in place."""
    weights = reader.read(index)
    whole = {key: torch.cat([part.weight for part in parts]) for key, parts in weights.matrices.items()}
    sizes = {key: [len(part.weight) for part in parts] for key, parts in weights.matrices.items()}
    parts = {key: tuple(map(DenseMatrix, torch.split(value, sizes[key]))) for key, value in whole.items()}
    return Weights(parts, weights.tensors, weights.dtype), LayerTensors(whole, weights.tensors)


def test_a_layer_with_matrices_that_nobody_knows_is_left_alone(tmp_path):
    path = checkpoints.save(checkpoints.qwen3(), tmp_path)
    config = ModelConfig.load(path)
    with open_weights(path, config, torch.float32) as reader:
        _, layer = _layer(reader, 0)
    layer.matrices["kv_up"] = torch.ones(4, 64)
    before = {key: value.clone() for key, value in layer.matrices.items()}
    scale_layer(config, layer, {}, {key: Rounding(4, 32) for key in layer.matrices}, torch.float32)
    assert all(torch.equal(value, layer.matrices[key]) for key, value in before.items())


@pytest.mark.parametrize("name", checkpoints.MODELS)
def test_scaling_changes_weights_but_not_what_a_layer_computes(name, tmp_path):
    path = checkpoints.save(checkpoints.MODELS[name](), tmp_path)
    config = ModelConfig.load(path)
    with open_weights(path, config, torch.float32) as reader:
        ends, (weights, layer) = reader.read(None), _layer(reader, 0)
    plain, scaled = CalibrationRun(config, TOKENS, ends), CalibrationRun(config, TOKENS, ends)
    seen = plain.run(0, weights)
    before = {key: value.clone() for key, value in layer.matrices.items()}
    roundings = {key: _rounding(value) for key, value in layer.matrices.items() if key != "router"}
    scale_layer(config, layer, seen, roundings, torch.bfloat16)
    scaled.run(0, weights)
    assert float((scaled.hidden - plain.hidden).abs().max()) <= 2e-4 * float(plain.hidden.abs().max())
    changed = {key for key, value in before.items() if not torch.equal(value, layer.matrices[key])}
    assert changed
    norms = [tensor for key, tensor in weights.tensors.items() if key in {"attention_norm", "mlp_norm"}]
    assert all(torch.equal(norm, norm.bfloat16().float()) for norm in norms)
