"""What a start says: of each engine what was decided, and what an earlier run has lost."""

from servery.byte_size import format_byte_size
from servery.engine.stats import EngineInfo
from servery.telemetry.ledger.writer import LostRun


def told_engine(name: str, info: EngineInfo) -> str:
    """What was decided about an engine, in one paragraph."""
    return (
        f"{name}: {info.architecture}, {info.parameters / 1e6:.1f}M parameters, weights {_held(info)} in "
        f"{_size(info.weight_bytes)}, on {info.device} with {info.threads} threads, kernels: {info.kernels}, "
        f"process {info.pid}\n"
        f"{' ' * len(name)}  context {info.max_model_len} tokens; KV cache {info.kv_dtype} in {_size(info.kv_bytes)} "
        f"holds {info.num_blocks * info.block_size} tokens of {info.kv_bytes_per_token} bytes, in blocks of "
        f"{info.block_size}; up to {info.max_running} sequences, {info.max_step_tokens} tokens per step; "
        f"loaded in {info.load_s:.1f} s{_link(info)}{_ranks(info, ' ' * len(name))}{_adapters(info, ' ' * len(name))}"
        f"{_speculation(info, ' ' * len(name))}"
    )


def _link(info: EngineInfo) -> str:
    return f", the weights at {info.link_bytes_per_s / 1e9:.1f} GB/s over the link" if info.link_bytes_per_s else ""


def _ranks(info: EngineInfo, indent: str) -> str:
    count = info.tensor_parallel * info.pipeline_parallel
    if count == 1:
        return ""
    sums = f", whose sums take {1e3 * info.step_sums_s:.2f} ms of a token's step" if info.tensor_parallel > 1 else ""
    stages = f", in {info.pipeline_parallel} stages" if info.pipeline_parallel > 1 else ""
    nodes = f", on {info.nnodes} machines" if info.nnodes > 1 else ""
    who = f"{info.tensor_parallel} processes share each layer" if info.tensor_parallel > 1 else f"{count} processes"
    return f"\n{indent}  {who}{stages}{nodes}{sums}"


def _adapters(info: EngineInfo, indent: str) -> str:
    if not info.max_loras:
        return ""
    reserve = _size(info.adapter_reserve_bytes)
    return (
        f"\n{indent}  up to {info.max_loras} LoRA adapters of rank {info.max_lora_rank}, {reserve} set aside for them"
    )


def _held(info: EngineInfo) -> str:
    return info.dtype if info.weight_dtype == info.dtype else f"{info.weight_dtype} (computed in {info.dtype})"


def _speculation(info: EngineInfo, indent: str) -> str:
    if info.speculate == "off":
        return ""
    if info.speculate == "ngram":
        return f"\n{indent}  drafts ahead by looking tokens up in the text so far"
    return (
        f"\n{indent}  drafts ahead with a model of {_size(info.draft_weight_bytes)}, whose KV cache takes "
        f"{_size(info.draft_kv_bytes)} besides"
    )


def _size(size: int) -> str:
    return f"{size} bytes ({format_byte_size(size)})"


def told_loss(run: LostRun) -> str:
    """What a run that was killed has cost the ledger."""
    return (
        f"An earlier run did not come to its end: {run.rows} rows of the ledger are lost, and {run.under_way} exchanges "
        f"were under way (run {run.id[:8]})."
    )
