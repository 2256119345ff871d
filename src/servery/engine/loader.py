"""From a checkpoint to a `Decoder`, streamed layer by layer."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.assembly import assemble_layer, norm_of
from servery.engine.attention.backend import AttentionBackend
from servery.engine.attention.reference import ReferenceAttention
from servery.engine.decoder import Decoder, Layer, Norm
from servery.engine.device import CPU
from servery.engine.device_kernels import DeviceKernels
from servery.engine.embedding import Embedding
from servery.engine.linear import Linear
from servery.engine.native.attention import NativeAttention
from servery.engine.native.embedding import PanelEmbedding
from servery.engine.native.library import NativeContext
from servery.engine.native.linear import NativeLinear
from servery.engine.native_loop import NativeLoop
from servery.engine.native_plan import Unplanned, plan_layers
from servery.engine.parallel.summed import CollectedHead, DividedEmbedding, Elsewhere
from servery.engine.parallel.team import Team
from servery.engine.quantizer.quantizer import Quantizer
from servery.engine.weights import Place, Progress, WeightReader, Weights, open_weights

log = logging.getLogger(__name__)

AnyEmbedding = Embedding | PanelEmbedding | DividedEmbedding | Elsewhere


@dataclass(frozen=True, slots=True)
class LoadTarget:
    """Where a model is loaded to: a device and its kernels, and how weights get there; None: this process's memory.

    `team` has the rest of the model, if this process has a part of it.
    """

    device: torch.device = CPU
    place: Place | None = None
    kernels: DeviceKernels | None = None
    team: Team | None = None

    @property
    def sharing(self) -> Team | None:
        """The team, if it shares layers; not if it only has others."""
        return self.team if self.team is not None and self.team.size > 1 else None


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
    target: LoadTarget | None = None,
) -> Decoder:
    """Read the weights, quantize those that are to be, and put them together; `native` computes what it has kernels for.

    `target` says where they go, if not into memory, and who has the rest; `config` is of the part that `reader` reads.
    Files are memory-mapped and copied one tensor at a time, so the peak is the model and the parts of one matrix (with a
    quantizer one layer in float32), and the files may change afterwards. Raises `LoadError` naming file and tensor when
    the checkpoint is damaged or does not fit `config`.
    """
    target = target or LoadTarget()
    ends = reader.read(None, place=target.place)
    # Layers that are packed one by one need no copy besides; experts and latent attention keep parts as they are.
    is_packed = native is not None and config.experts is None and config.latent is None
    layers = (
        _plain(reader, config, may_map=is_packed, place=target.place)
        if quantizer is None
        else _quantized(reader, config, ends, quantizer, target.place)
    )
    ends = replace(ends, native=native, kernels=target.kernels)
    head, embed = _head(config, ends, target), _embedding(config, ends, target, reader.dtype)
    complete = partial(replace, native=native, kernels=target.kernels, team=target.sharing)
    assembled = [assemble_layer(config, index, complete(each)) for index, each in enumerate(layers)]
    norm: Norm = norm_of(config, ends.tensors["norm"]) if "norm" in ends.tensors else Elsewhere()
    attention = _attention(config, [layer.sinks for layer in assembled], native, target.kernels)
    if native is not None and config.tie_embeddings and isinstance(head, NativeLinear) and head.is_dense:
        embed = PanelEmbedding(head, reader.dtype)  # rows can be read from the head: the weights are held once
    model = Decoder(
        config,
        reader.dtype,
        embedding=embed,
        layers=assembled,
        norm=norm,
        head=head,
        attention=attention,
        device=target.device,
    )
    if target.kernels is not None and not isinstance(norm, Elsewhere) and not isinstance(embed, Elsewhere):
        model = target.kernels.wrap(model)
    return model if native is None else model.with_loop(_loop(native, config, model, embed, assembled, norm))


def _attention(
    config: ModelConfig,
    sinks: Sequence[Tensor | None],
    native: NativeContext | None,
    kernels: DeviceKernels | None,
) -> AttentionBackend:
    if kernels is not None and (compiled := kernels.attention(config, sinks)) is not None:
        return compiled
    plain = ReferenceAttention(config, sinks)
    return NativeAttention(native, config, sinks, plain) if native and NativeAttention.takes(config) else plain


def _loop(
    native: NativeContext,
    config: ModelConfig,
    model: Decoder,
    embedding: AnyEmbedding,
    layers: Sequence[Layer],
    norm: Norm,
) -> NativeLoop | None:
    """What runs whole steps, or None, and a line that says why."""
    try:
        if not isinstance(model.attention, NativeAttention):
            raise Unplanned("there is no kernel for its attention")
        plan = plan_layers(config, layers, norm)
        assert isinstance(embedding, Embedding | PanelEmbedding)  # of a whole model
    except Unplanned as reason:
        log.info("computing operation by operation, not step by step, which is slower for small models: %s", reason)
        return None
    return NativeLoop(native, plan, model.attention, embedding, config, model.dtype)


def _head(config: ModelConfig, ends: Weights, target: LoadTarget) -> Linear:
    if "embedding" not in ends.matrices:
        return Elsewhere()
    head = ends.linear("embedding" if config.tie_embeddings else "head")
    return head if target.sharing is None else CollectedHead(head, config.vocab_size, target.sharing)


def _embedding(config: ModelConfig, ends: Weights, target: LoadTarget, dtype: torch.dtype) -> AnyEmbedding:
    if "embedding" not in ends.matrices:
        return Elsewhere()
    (matrix,) = ends.matrices["embedding"]
    embedding, team = Embedding(matrix, dtype), target.sharing
    if team is None:
        return embedding
    first = team.ranks.tensor_rank * -(-config.vocab_size // team.size)
    return DividedEmbedding(embedding, first, matrix.shape[0], team)


def _plain(reader: WeightReader, config: ModelConfig, *, may_map: bool, place: Place | None) -> Iterator[Weights]:
    return (reader.read(index, may_map=may_map, place=place) for index in range(config.num_layers))


def _quantized(
    reader: WeightReader, config: ModelConfig, ends: Weights, quantizer: Quantizer, place: Place | None
) -> Iterator[Weights]:
    quantizer.begin(ends if place is None else reader.read(None))  # it computes with the CPU
    for index in range(config.num_layers):
        rounded = quantizer.layer(index, reader.read(index, torch.float32)).to(reader.dtype)
        yield rounded if place is None else rounded.placed(place)
