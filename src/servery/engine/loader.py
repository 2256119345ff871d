"""From a checkpoint to a `Decoder`, streamed layer by layer."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.assembly import assemble_layer, norm_of
from servery.engine.attention.backend import AttentionBackend
from servery.engine.attention.reference import ReferenceAttention
from servery.engine.decoder import Decoder, Layer, Norm
from servery.engine.embedding import Embedding
from servery.engine.linear import Linear, linear_of
from servery.engine.native.attention import NativeAttention
from servery.engine.native.embedding import PanelEmbedding
from servery.engine.native.library import NativeContext
from servery.engine.native.linear import NativeLinear
from servery.engine.native_loop import NativeLoop
from servery.engine.native_plan import Unplanned, plan_layers
from servery.engine.quantization.matrix import Matrix
from servery.engine.quantizer.quantizer import Quantizer
from servery.engine.weights import Progress, WeightReader, Weights, open_weights

log = logging.getLogger(__name__)


def load_model(
    path: Path | str,
    config: ModelConfig,
    dtype: torch.dtype,
    *,
    quantizer: Quantizer | None = None,
    progress: Progress | None = None,
    native: NativeContext | None = None,
) -> Decoder:
    """The model in directory `path`; see `open_weights` and `build_decoder`."""
    with open_weights(Path(path), config, dtype, progress=progress) as reader:
        return build_decoder(config, reader, quantizer, native)


def build_decoder(
    config: ModelConfig,
    reader: WeightReader,
    quantizer: Quantizer | None = None,
    native: NativeContext | None = None,
) -> Decoder:
    """Read the weights, quantize those that are to be, and put them together; `native` computes what it has kernels for.

    Files are memory-mapped and copied one tensor at a time, so the peak is the model and the parts of one matrix (with a
    quantizer one layer in float32), and the files may change afterwards. Raises `LoadError` naming file and tensor when
    the checkpoint is damaged or does not fit `config`.
    """
    ends = reader.read(None)
    # Layers that are packed one by one need no copy besides; experts and latent attention keep parts as they are.
    is_packed = native is not None and config.experts is None and config.latent is None
    layers = (
        _plain(reader, config, may_map=is_packed) if quantizer is None else _quantized(reader, config, ends, quantizer)
    )
    embedding = ends.matrices["embedding"]
    head = linear_of(embedding if config.tie_embeddings else ends.matrices["head"], dtype=reader.dtype, native=native)
    assembled = [assemble_layer(config, index, replace(each, native=native)) for index, each in enumerate(layers)]
    embed = _embedding(config, embedding[0], head, reader.dtype)
    norm = norm_of(config, ends.tensors["norm"])
    attention = _attention(config, [layer.sinks for layer in assembled], native)
    model = Decoder(config, reader.dtype, embedding=embed, layers=assembled, norm=norm, head=head, attention=attention)
    return model if native is None else model.with_loop(_loop(native, config, model, embed, assembled, norm))


def _attention(config: ModelConfig, sinks: Sequence[Tensor | None], native: NativeContext | None) -> AttentionBackend:
    plain = ReferenceAttention(config, sinks)
    return NativeAttention(native, config, sinks, plain) if native and NativeAttention.takes(config) else plain


def _loop(
    native: NativeContext,
    config: ModelConfig,
    model: Decoder,
    embedding: Embedding | PanelEmbedding,
    layers: Sequence[Layer],
    norm: Norm,
) -> NativeLoop | None:
    """What runs whole steps, or None, and a line that says why."""
    try:
        if not isinstance(model.attention, NativeAttention):
            raise Unplanned("there is no kernel for its attention")
        plan = plan_layers(config, layers, norm)
    except Unplanned as reason:
        log.info("computing operation by operation, not step by step, which is slower for small models: %s", reason)
        return None
    return NativeLoop(native, plan, model.attention, embedding, config, model.dtype)


def _embedding(config: ModelConfig, matrix: Matrix, head: Linear, dtype: torch.dtype) -> Embedding | PanelEmbedding:
    """Where the head has the same weights, and rows can be read from it, they are held once."""
    if config.tie_embeddings and isinstance(head, NativeLinear) and head.is_dense:
        return PanelEmbedding(head, dtype)
    return Embedding(matrix, dtype)


def _plain(reader: WeightReader, config: ModelConfig, *, may_map: bool) -> Iterator[Weights]:
    return (reader.read(index, may_map=may_map) for index in range(config.num_layers))


def _quantized(reader: WeightReader, config: ModelConfig, ends: Weights, quantizer: Quantizer) -> Iterator[Weights]:
    quantizer.begin(ends)
    for index in range(config.num_layers):
        yield quantizer.layer(index, reader.read(index, torch.float32)).to(reader.dtype)
