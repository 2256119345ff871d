"""The seam between the loader and the kernels of a device: what they compute in place of torch's operations."""

import importlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.attention.backend import AttentionBackend
from servery.engine.linear import Linear
from servery.engine.mlp import Mixture, SharedExpert
from servery.engine.quantization.matrix import Matrix
from servery.engine.router import Router
from servery.engine.traits import Clamp

if TYPE_CHECKING:
    from servery.engine.decoder import Decoder

log = logging.getLogger(__name__)


class DeviceKernels(Protocol):
    """Kernels of one device. None, where an answer may be that, means that torch computes the part."""

    def linear(self, matrix: Matrix, bias: Tensor | None, dtype: torch.dtype) -> Linear | None:
        """A linear layer for inputs of type `dtype`."""
        ...

    def mixture(
        self,
        router: Router,
        gate_ups: Sequence[tuple[Matrix, Tensor | None]],
        downs: Sequence[tuple[Matrix, Tensor | None]],
        activation: str | Clamp,
        shared: SharedExpert | None,
    ) -> Mixture | None:
        """A mixture of experts, of each of which there are two matrices and perhaps their biases."""
        ...

    def attention(self, config: ModelConfig, sinks: Sequence[Tensor | None]) -> AttentionBackend | None:
        """Attention over the paged cache; `sinks` has an entry for each layer."""
        ...

    def wrap(self, decoder: "Decoder") -> "Decoder":
        """The decoder with what else there is put in."""
        ...


def open_device_kernels(
    device: torch.device, dtype: torch.dtype, wanted: str, *, batch_invariant: bool
) -> DeviceKernels | None:
    """The kernels for a GPU; None for a CPU, where torch is `wanted`, or where they cannot be had, which is logged."""
    if device.type != "cuda" or wanted == "torch":
        return None
    try:
        made = importlib.import_module("servery.engine.cuda.device_kernels")  # Triton is an optional part of torch
    except ImportError as error:
        log.warning("computing with torch, which is slower than kernels made for the GPU: %s", error)
        return None
    kernels: DeviceKernels | None = made.open_kernels(device, dtype, batch_invariant=batch_invariant)
    if kernels is None:
        log.warning("computing with torch, which is slower than kernels made for the GPU: there is no Triton here")
    return kernels
