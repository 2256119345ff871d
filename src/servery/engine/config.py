"""What an operator can choose about an engine, validated when made."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from servery.engine.adapter_source import DEFAULT_MAX_RANK, AdapterSource
from servery.engine.errors import LoadError
from servery.engine.quantization.scheme import check_choice

DTYPES = ("auto", "float32", "bfloat16")
SPECULATION = ("off", "ngram", "draft")
MAX_THREADS = 1024  # more than any machine has cores; far more than that no system starts
MAX_DRAFTS = 16  # beyond this hardly any stand, and a step's budget is shared
KERNELS = ("auto", "native", "torch")
KV_DTYPES = ("auto", "float32", "bfloat16", "int8", "fp8")
DEVICES = ("auto", "cpu", "cuda", "cuda:N")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
MAX_RANKS = 64  # processes that compute one model
MAX_PORT = 65535
MASTER_PORT = 29500  # as torchrun's
JOIN_TIMEOUT_S = 300.0  # the machines of a model are started by different hands


class StepLimits(NamedTuple):
    """How many sequences are computed at the same time, and how many tokens in one step."""

    max_running: int
    max_step_tokens: int


# A GPU needs hundreds of rows to be busy, and thousands of tokens for a prompt to be computed near its limit.
CPU_LIMITS = StepLimits(64, 256)
GPU_LIMITS = StepLimits(256, 8192)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """An engine's settings; None means "decide from the model and the machine".

    `model` is the folder of a Hugging Face checkpoint. `device` is where it is computed: "cpu", "cuda", or one of several
    GPUs, such as "cuda:1"; "auto" is "cuda" where torch finds one. `tensor_parallel` processes share each layer,
    `pipeline_parallel` groups of them the layers, each process with a device of its own. They are spread evenly over
    `nnodes` machines; the others come to this one at `master_addr`:`master_port` within `join_timeout_s`. `batch_invariant` lets a GPU
    compute a row the same way whoever shares its step.
    `quantize` rounds the weights while they are loaded, see `quantization.scheme`: to "int8", "fp8" or "int4", the
    last with a scale for each `group_size` input channels, by `quantize_method`, which for "awq" is calibrated on the text in
    the file `calibration`.
    `kv_dtype` is what keys and values are stored in ("auto": `dtype`), see `kv_format`.
    `memory_bytes` is all that the engine may take, if the machine has it. While the model sleeps its weights are in a
    file in `sleep_dir`. `kv_memory_bytes` bounds the KV cache; `max_running` the sequences and `max_step_tokens` the tokens
    of one step (a prompt longer than that is computed in chunks), see `step_limits`; `max_waiting_requests` and `max_waiting_tokens` bound the queue.
    `speculate` says who drafts tokens ahead: nobody, a look at the text so far ("ngram"), or the smaller model in the
    folder `draft_model` ("draft"); `max_drafts` bounds how many of a sequence are verified in one step.
    `threads` are for the engine process only. `kernels` compute: "native" are compiled when the package is installed,
    "auto" takes them where they are there and made for this CPU.
    `adapters` are loaded with the model; `max_loras` bounds how many there
    are at a time, those loaded later included (None: as many as `adapters`), and `max_lora_rank` the rank of each. Raises
    `LoadError` for a value outside its range.
    """

    model: Path
    device: str = "auto"
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    nnodes: int = 1
    master_addr: str | None = None
    master_port: int = MASTER_PORT
    join_timeout_s: float = JOIN_TIMEOUT_S
    batch_invariant: bool = False
    dtype: str = "auto"
    quantize: str | None = None
    group_size: int | None = None
    quantize_method: str | None = None
    calibration: Path | None = None
    kv_dtype: str = "auto"
    max_model_len: int | None = None
    memory_bytes: int | None = None
    sleep_dir: Path | None = None
    kv_memory_bytes: int | None = None
    block_size: int = 16
    max_running: int | None = None
    max_step_tokens: int | None = None
    max_waiting_requests: int = 512
    max_waiting_tokens: int = 1_000_000
    prefix_cache: bool = True
    threads: int | None = None
    kernels: str = "auto"
    adapters: tuple[AdapterSource, ...] = ()
    max_loras: int | None = None
    max_lora_rank: int = DEFAULT_MAX_RANK
    speculate: str = "off"
    draft_model: Path | None = None
    max_drafts: int = 8

    @property
    def adapter_places(self) -> int:
        """How many LoRA adapters there may be at a time."""
        return len(self.adapters) if self.max_loras is None else self.max_loras

    @property
    def num_ranks(self) -> int:
        """How many processes compute the model together."""
        return self.tensor_parallel * self.pipeline_parallel

    def step_limits(self, *, on_gpu: bool) -> StepLimits:
        """The limits of a step, those that were not given decided for the kind of device."""
        usual = GPU_LIMITS if on_gpu else CPU_LIMITS
        tokens = self.max_step_tokens or usual.max_step_tokens
        return StepLimits(self.max_running or min(usual.max_running, tokens), tokens)

    def __post_init__(self) -> None:
        if _DEVICE.fullmatch(self.device) is None:
            raise LoadError(f"device is {self.device!r}; choose one of {', '.join(DEVICES)}.")
        if self.dtype not in DTYPES:
            raise LoadError(f"dtype is {self.dtype!r}; choose one of {', '.join(DTYPES)}.")
        check_choice(self.quantize, self.group_size, self.quantize_method, self.calibration is not None)
        if self.kv_dtype not in KV_DTYPES:
            raise LoadError(f"kv_dtype is {self.kv_dtype!r}; choose one of {', '.join(KV_DTYPES)}.")
        if self.kernels not in KERNELS:
            raise LoadError(f"kernels is {self.kernels!r}; choose one of {', '.join(KERNELS)}.")
        positive = (
            "block_size",
            "max_running",
            "max_step_tokens",
            "max_waiting_requests",
            "max_waiting_tokens",
            "max_lora_rank",
            "max_drafts",
            "tensor_parallel",
            "pipeline_parallel",
            "nnodes",
            "master_port",
        )
        for name in (*positive, "max_model_len", "memory_bytes", "kv_memory_bytes", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise LoadError(f"{name} is {value}; it must be at least 1.")
        if self.threads is not None and self.threads > MAX_THREADS:
            raise LoadError(f"threads is {self.threads}; it must be at most {MAX_THREADS}.")
        self._check_adapters()
        self._check_speculation()
        self._check_ranks()
        self._check_nodes()
        limits = self.step_limits(on_gpu=self.device.startswith("cuda"))
        if limits.max_running > limits.max_step_tokens:
            raise LoadError(
                f"max_running is {limits.max_running} and max_step_tokens is {limits.max_step_tokens}; "
                "a step must have room for one token of every running sequence: raise max_step_tokens."
            )

    @property
    def float8_options(self) -> tuple[str, ...]:
        """The options, as they are typed, that need a GPU with float8, if a GPU computes."""
        wanted = {"--kv-dtype fp8": self.kv_dtype, "--quantize fp8": self.quantize}
        return tuple(option for option, value in wanted.items() if value == "fp8")

    def _check_ranks(self) -> None:
        if self.num_ranks > MAX_RANKS:
            raise LoadError(
                f"tensor_parallel {self.tensor_parallel} times pipeline_parallel {self.pipeline_parallel} are "
                f"{self.num_ranks} processes; at most {MAX_RANKS} compute one model."
            )
        if self.num_ranks > 1 and ":" in self.device:
            raise LoadError(
                f"device is {self.device!r}, and {self.num_ranks} processes each need a device of their own: say cuda, "
                "and choose which with CUDA_VISIBLE_DEVICES."
            )

    def _check_nodes(self) -> None:
        if self.nnodes > 1 and self.master_addr is None:
            raise LoadError(
                f"nnodes is {self.nnodes}, but nobody knows where the others come to: say with master_addr which address "
                "of this machine they reach."
            )
        if self.nnodes == 1 and self.master_addr is not None:
            raise LoadError("there is master_addr, but nnodes is 1: say on how many machines the model is.")
        if self.num_ranks % self.nnodes:
            raise LoadError(
                f"nnodes is {self.nnodes}, but {self.num_ranks} processes cannot be spread evenly over so many machines: "
                f"let tensor_parallel be the GPUs of one, and pipeline_parallel {self.nnodes} or a multiple of it."
            )
        if self.master_port > MAX_PORT:
            raise LoadError(f"master_port is {self.master_port}; it must be at most {MAX_PORT}.")

    def _check_speculation(self) -> None:
        if self.speculate not in SPECULATION:
            raise LoadError(f"speculate is {self.speculate!r}; choose one of {', '.join(SPECULATION)}.")
        if self.max_drafts > MAX_DRAFTS:
            raise LoadError(f"max_drafts is {self.max_drafts}; it must be at most {MAX_DRAFTS}.")
        if self.speculate == "draft" and self.draft_model is None:
            raise LoadError('speculate is "draft", but there is no draft model: name one with --draft-model.')
        if self.speculate != "draft" and self.draft_model is not None:
            raise LoadError(
                f"there is a draft model ({self.draft_model}), but speculate is {self.speculate!r}: say "
                "--speculate draft, or leave --draft-model out."
            )

    def _check_adapters(self) -> None:
        if self.adapter_places < len(self.adapters):
            count = len(self.adapters)
            raise LoadError(
                f"max_loras is {self.max_loras} and {count} adapters are to be loaded; raise it to {count}."
            )
        names = [adapter.name for adapter in self.adapters]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise LoadError(f"two adapters are named {twice!r}; give one of them another name.")
