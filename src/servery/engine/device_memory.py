"""What a step takes of a GPU's memory besides weights and KV: estimated before anything is loaded, then measured."""

import torch

from servery.engine.architecture import ModelConfig
from servery.engine.batch import Batch
from servery.engine.config import StepLimits
from servery.engine.decoder import Decoder
from servery.engine.graph_buckets import buckets
from servery.engine.kv import KVCache
from servery.engine.kv_format import KVFormat
from servery.engine.memory import Reserve

# What cuBLAS, the driver and the allocator's fragments take.
LIBRARY_BYTES = 512 << 20
# Of a captured graph itself, without the memory that its kernels write to: about 10 KiB for each of its nodes.
GRAPH_BYTES = 8 << 20
# How many tensors as large as the hidden states, the heads, the MLP's inner states, and the logits are alive at the same
# time: of these the model's own, the edited ones, and what choosing and telling log probabilities makes of them.
_HIDDEN, _HEADS, _INNER, _LOGITS = 6, 3, 3, 5


def estimate_reserve(config: ModelConfig, limits: StepLimits, itemsize: int) -> Reserve:
    """Before the model is there: from the sizes of what is computed."""
    rows = limits.max_running
    return Reserve(
        process_bytes=LIBRARY_BYTES,
        workspace_bytes=activation_bytes(config, limits.max_step_tokens, rows, itemsize),
        graph_bytes=activation_bytes(config, rows, rows, itemsize) + len(buckets(rows)) * GRAPH_BYTES,
        is_device=True,
    )


def activation_bytes(config: ModelConfig, tokens: int, rows: int, itemsize: int) -> int:
    """What a step of `tokens` holds at most, with logits for `rows` of them."""
    inner = config.intermediate_size
    if config.experts is not None:
        inner = max(inner, config.experts.per_token * config.experts.intermediate_size + config.experts.shared_size)
    heads = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    values = tokens * (_HIDDEN * config.hidden_size + _HEADS * heads + _INNER * inner)
    return values * itemsize + _choice_bytes(config, rows)


def _choice_bytes(config: ModelConfig, rows: int) -> int:
    """What choosing the tokens of `rows` holds at most."""
    return _LOGITS * rows * config.vocab_size * 4


@torch.inference_mode()
def measure_workspace(model: Decoder, kv_format: KVFormat, limits: StepLimits, block_size: int, context: int) -> int:
    """Run the largest step there can be, on a GPU, and tell what it took at its peak besides what was there.

    At least what choosing tokens takes, which what requests say decides: that is not run.
    """
    device = model.device
    rows, rows_chosen = list(_row_lengths(limits.max_step_tokens, context)), limits.max_running
    widths = [-(-length // block_size) for length in rows]
    cache = KVCache(model.config, sum(widths), block_size, model.dtype, str(device), kv_format)
    starts = [sum(widths[:row]) for row in range(len(rows))]
    batch = Batch.build(
        [([0] * n, 0, list(range(at, at + w))) for n, at, w in zip(rows, starts, widths, strict=True)], block_size
    )
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    model.logits(model.forward(batch, cache)[:rows_chosen])
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    del cache, batch
    torch.cuda.empty_cache()
    return max(peak, _choice_bytes(model.config, rows_chosen))


def _row_lengths(tokens: int, context: int) -> list[int]:
    """A step's tokens in rows as long as the context allows."""
    whole, rest = divmod(tokens, context)
    return [context] * whole + ([rest] if rest else [])
