"""The launcher of a model on its device, with the sampler and the graphs that there are."""

import importlib
import logging
from collections.abc import Callable

import torch
from torch import Tensor

from servery.engine.capture import GraphCapture
from servery.engine.config import StepLimits
from servery.engine.decode_graphs import DecodeGraphs
from servery.engine.decoder import Decoder
from servery.engine.device_rows import sample_greedily
from servery.engine.kv import KVCache
from servery.engine.launch import DeviceSampler, Launcher

log = logging.getLogger(__name__)


def open_launcher(
    model: Decoder,
    cache: KVCache,
    limits: StepLimits,
    max_context: int,
    *,
    can_capture: bool,
    logits: Callable[[Tensor], Tensor] | None,
) -> Launcher:
    """A launcher for steps of up to `limits`; with graphs, on a GPU, if every operation of a step can be captured.

    `logits` are those of this process, if it has the model's head.
    """
    sample, takes_any = device_sampler(model.device)
    launcher = Launcher(model, logits, cache, sample, limits.max_running, takes_any=takes_any)
    if model.device.type == "cuda" and can_capture:
        model.reserve(max_context)
        graphs = DecodeGraphs(launcher, cache, max_context, GraphCapture(model.device))
        graphs.prepare()
        launcher.graphs = graphs
    return launcher


def device_sampler(device: torch.device) -> tuple[DeviceSampler, bool]:
    """What chooses tokens on a device, and whether it does so by any parameters; else greedily only."""
    if device.type != "cuda":
        return sample_greedily, False
    try:
        made = importlib.import_module("servery.engine.cuda.sampling")
    except ImportError as error:
        log.warning("tokens are drawn on the host, which waits for the GPU at every step: %s", error)
        return sample_greedily, False
    sample: DeviceSampler = made.sample
    return sample, True
