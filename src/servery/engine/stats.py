"""What an engine tells about itself: fixed facts once, counters after every step."""

import msgspec

from servery.engine.scheduler import SchedulerStats
from servery.engine.step_sizes import STEP_SIZES
from servery.engine.structure.stats import StructureStats


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What was resolved at start-up; printed once, and what a server must know of the model.

    `dtype` is the type of computation; `quantization` what the weights are rounded to ("int4"), or the method of a
    checkpoint or file that is stored so ("gptq"); "" for neither. `held` is the type in which the others are in memory:
    kernels hold float32 weights as bfloat16 where those are the same numbers. `workspace_bytes` is what a step takes on a
    GPU, and `link_bytes_per_s` how fast weights went there. Of `tensor_parallel` processes that share layers, `sum_s` is
    what a sum over them takes, and `step_sums_s` all of a step that decodes one token.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    parameters: int
    dtype: str
    quantization: str = ""
    held: str = ""
    device: str
    kernels: str
    threads: int
    max_model_len: int
    max_running: int
    max_step_tokens: int
    block_size: int
    num_blocks: int
    kv_dtype: str
    kv_bytes: int
    kv_bytes_per_token: int
    weight_bytes: int
    max_loras: int = 0
    max_lora_rank: int = 0
    adapter_reserve_bytes: int = 0
    speculate: str = "off"
    draft_weight_bytes: int = 0
    draft_kv_bytes: int = 0
    workspace_bytes: int = 0
    load_s: float
    link_bytes_per_s: float = 0.0
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    nnodes: int = 1
    sum_s: float = 0.0
    step_sums_s: float = 0.0
    pid: int

    @property
    def weight_dtype(self) -> str:
        """What the weights are held in: what they are rounded to, or were stored as, else the type of computation."""
        return self.quantization or self.held or self.dtype


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the engine process started.

    `read_bytes` is what the steps had to read at least: the weights once per step, of a mixture of experts the share
    that its tokens are expected to go to, and the KV of every context; over `step_s` it is the achieved memory
    bandwidth, and over the machine's bandwidth the MBU. `operations` are those of the products, over the machine's rate
    the MFU. `bytes_per_s` and `operations_per_s` are both for the steps of the last seconds, None before the first.
    `step_sizes` are how many steps fell into each bucket of `STEP_SIZES`, the last one for what is larger.
    For `host_s` the host was at work on steps, deciding, launching and recording them: of `step_s` on a GPU, where it waits
    for the rest; besides `step_s` where it computes the steps itself. `decode_steps` gave each of their sequences one token, in
    `decode_s`, with `decode_host_s` of the host. `graphs` of decoding were captured, in `graph_s`, whose memory is `graph_bytes`.
    `adapters` and `adapter_bytes` are no counters: the LoRA adapters that can be asked for, and the memory of all held.
    """

    scheduler: SchedulerStats
    steps: int = 0
    step_s: float = 0.0
    step_tokens: int = 0
    read_bytes: int = 0
    operations: int = 0
    bytes_per_s: float | None = None
    operations_per_s: float | None = None
    step_sizes: tuple[int, ...] = (0,) * (len(STEP_SIZES) + 1)
    failed_steps: int = 0
    interrupted_steps: int = 0
    host_s: float = 0.0
    decode_steps: int = 0
    decode_s: float = 0.0
    decode_host_s: float = 0.0
    graphs: int = 0
    graph_bytes: int = 0
    graph_s: float = 0.0
    adapters: int = 0
    adapter_bytes: int = 0
    structure: StructureStats = StructureStats()


class EngineLife(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an engine's processes since the server started: those that failed, by cause, and restarts."""

    failures: dict[str, int]
    restarts: int
