"""The GPU's kernels as the loader asks for them: what computes a layout, or None where torch does."""

import logging
import os
import shutil
import sysconfig
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from servery.engine.architecture import ModelConfig
from servery.engine.attention.backend import AttentionBackend
from servery.engine.cuda.attention import PagedAttention
from servery.engine.cuda.attention_choice import FLEX, OURS, VARLEN, AttentionByShape, Backend
from servery.engine.cuda.experts import GroupedExperts, StackedWeight
from servery.engine.cuda.fused_loop import FusedLoop
from servery.engine.cuda.linear import LinearOptions, coded_linear, invariant_product
from servery.engine.cuda.measured import Measured, measured_on
from servery.engine.cuda.rivals import FlexAttention, VarlenAttention, is_plain
from servery.engine.decoder import Decoder
from servery.engine.linear import Linear
from servery.engine.mlp import SharedExpert
from servery.engine.quantization.matrix import Matrix
from servery.engine.router import Router
from servery.engine.traits import Clamp

log = logging.getLogger(__name__)

_OF_TORCH: dict[str, Callable[[ModelConfig], Backend]] = {VARLEN: VarlenAttention, FLEX: FlexAttention}


def open_kernels(
    device: torch.device, dtype: torch.dtype, *, batch_invariant: bool = False, measured: Measured | None = None
) -> "CudaKernels | None":
    """The kernels for a device that computes in `dtype`; None, and a line that says why, where they cannot be built.

    `batch_invariant`: what is computed for a row depends on that row alone, bit for bit. `measured` None: what is known
    of GPUs of this name.
    """
    if device.type == "cuda" and (missing := missing_for_launching()) is not None:
        log.warning("Triton cannot build what launches kernels: %s", missing)
        return None
    if measured is None and device.type == "cuda":
        measured = measured_on(torch.cuda.get_device_name(device))
    return CudaKernels(dtype, measured or Measured(), batch_invariant=batch_invariant)


def missing_for_launching() -> str | None:
    """What Triton lacks here to compile, in C, what launches a kernel; None if nothing."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return "there is no C compiler; install gcc, or name one in CC"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return f"Python's headers are not in {sysconfig.get_path('include')}; install them (Debian: python3-dev)"
    return None


class CudaKernels:
    """Triton's kernels for one device."""

    def __init__(self, dtype: torch.dtype, measured: Measured, *, batch_invariant: bool) -> None:
        self._dtype = dtype
        self._measured = measured
        self._is_invariant = batch_invariant

    def linear(self, matrix: Matrix, bias: Tensor | None, dtype: torch.dtype) -> Linear | None:
        """A linear layer, whatever the `dtype` of its inputs."""
        return coded_linear(matrix, bias, LinearOptions(self._measured, invariant=self._is_invariant))

    def mixture(
        self,
        router: Router,
        gate_ups: Sequence[tuple[Matrix, Tensor | None]],
        downs: Sequence[tuple[Matrix, Tensor | None]],
        activation: str | Clamp,
        shared: SharedExpert | None,
    ) -> GroupedExperts | None:
        """A mixture of experts, of each of which there are two matrices and perhaps their biases."""
        gate_up, down = StackedWeight.of(gate_ups), StackedWeight.of(downs)
        if gate_up is None or down is None:
            return None
        if self._is_invariant:
            router = router.multiplying(invariant_product)
        return GroupedExperts(
            router, gate_up, down, activation, shared, num_experts=len(downs), invariant=self._is_invariant
        )

    def attention(self, config: ModelConfig, sinks: Sequence[Tensor | None]) -> AttentionBackend | None:
        """Attention over the paged cache; `sinks` has an entry for each layer."""
        made: Backend = PagedAttention(config, sinks, measured=self._measured, invariant=self._is_invariant)
        names = set(self._measured.backends.values())
        if names and not self._is_invariant and config.attention_soft_cap is None:
            backends = {OURS: made, **{name: _OF_TORCH[name](config) for name in names}}
            made = AttentionByShape(backends, self._measured.backends, partial(is_plain, config))
        return cast(AttentionBackend, made)  # its batches are those of a device

    def wrap(self, decoder: Decoder) -> Decoder:
        """The decoder with the small kernels between matrix products put in."""
        ways = {} if self._is_invariant else self._measured.small
        loop = FusedLoop(decoder.config, decoder.layers, decoder.norm, decoder.attention, ways)
        return decoder.with_loop(loop)
