"""From a checkpoint to a `Decoder`, streamed layer by layer."""

from collections.abc import Iterator
from pathlib import Path

import torch

from servery.engine.architecture import ModelConfig
from servery.engine.assembly import assemble_layer, norm_of
from servery.engine.decoder import Decoder
from servery.engine.linear import linear_of
from servery.engine.quantizer.quantizer import Quantizer
from servery.engine.weights import Progress, WeightReader, Weights, open_weights


def load_model(
    path: Path | str,
    config: ModelConfig,
    dtype: torch.dtype,
    *,
    quantizer: Quantizer | None = None,
    progress: Progress | None = None,
) -> Decoder:
    """The model in directory `path`; see `open_weights` and `build_decoder`."""
    with open_weights(Path(path), config, dtype, progress=progress) as reader:
        return build_decoder(config, reader, quantizer)


def build_decoder(config: ModelConfig, reader: WeightReader, quantizer: Quantizer | None = None) -> Decoder:
    """Read the weights, quantize those that are to be, and put them together.

    Files are memory-mapped and copied one tensor at a time, so the peak is the model and the parts of one matrix (with a
    quantizer one layer in float32), and the files may change afterwards. Raises `LoadError` naming file and tensor when
    the checkpoint is damaged or does not fit `config`.
    """
    ends = reader.read(None)
    layers = _plain(reader, config) if quantizer is None else _quantized(reader, config, ends, quantizer)
    embedding = ends.matrices["embedding"]
    return Decoder(
        config,
        reader.dtype,
        embedding=embedding[0],
        layers=[assemble_layer(config, index, weights) for index, weights in enumerate(layers)],
        norm=norm_of(config, ends.tensors["norm"]),
        head=linear_of(embedding if config.tie_embeddings else ends.matrices["head"], dtype=reader.dtype),
    )


def _plain(reader: WeightReader, config: ModelConfig) -> Iterator[Weights]:
    return (reader.read(index) for index in range(config.num_layers))


def _quantized(reader: WeightReader, config: ModelConfig, ends: Weights, quantizer: Quantizer) -> Iterator[Weights]:
    quantizer.begin(ends)
    for index in range(config.num_layers):
        yield quantizer.layer(index, reader.read(index, torch.float32)).to(reader.dtype)
