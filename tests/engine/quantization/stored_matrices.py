"""What the loader makes of a checkpoint: the values of its quantized modules, and the logits of its model."""

from pathlib import Path

import torch
from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.batch import Batch
from servery.engine.kv import KVCache
from servery.engine.loader import load_model
from servery.engine.quantization.matrix import DenseMatrix
from servery.engine.weight_map import targets_of
from servery.engine.weights import open_weights


def stored_matrices(path: Path) -> dict[str, Tensor]:
    """The values [N, K] float32 of each module that is held as codes."""
    config = ModelConfig.load(path)
    found: dict[str, Tensor] = {}
    with open_weights(path, config, torch.float32) as reader:
        held = {
            (f"{layer}.{key}" if layer is not None else key): parts
            for layer in (None, *range(config.num_layers))
            for key, parts in reader.read(layer).matrices.items()
        }
    for target in targets_of(config):
        for source, matrix in zip(target.sources, held.get(target.key, ()), strict=False):
            if not isinstance(matrix, DenseMatrix):
                found[source.module] = matrix.dequantize(torch.float32)
    return found


def logits(path: Path) -> Tensor:
    """float32 [3, vocab_size] of the model that a prompt runs through."""
    model = load_model(path, ModelConfig.load(path), torch.float32)
    cache = KVCache(model.config, 4, 16, model.dtype)
    return model.logits(model.forward(Batch.build([(list(range(3, 40)), 0, [2, 0, 3])], 16), cache))
