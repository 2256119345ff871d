"""The engine's options on the command line, for every verb that runs an engine; what they mean is in `EngineConfig`."""

import argparse
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from servery.engine.config import (
    CPU_LIMITS,
    DTYPES,
    GPU_LIMITS,
    JOIN_TIMEOUT_S,
    KERNELS,
    KV_DTYPES,
    MASTER_PORT,
    MAX_DRAFTS,
    SPECULATION,
    EngineConfig,
)
from servery.engine.errors import EngineError
from servery.engine.quantization.scheme import GROUP_SIZES, INT4, METHODS, SCHEMES
from servery.option_value import at_least, byte_size, seconds

# What a verb asks for in its own way, if at all.
_ELSEWHERE = frozenset({"model", "memory_bytes", "sleep_dir", "adapters", "max_loras", "max_lora_rank"})
# Options that are not called as the setting is.
_RENAMED = {"kv_memory_bytes": "kv_memory", "join_timeout_s": "join_timeout"}
# Verbs that run two models have each of the options twice.
_SIDES = ("candidate_", "baseline_")
_SCHEMES_HELP = "int8, fp8: by output channel; int4: by group of input channels"
# A setting in a message of the engine's. Where its name is an everyday word it is meant if something is said of it; what
# stands in a file is called otherwise.
_MENTIONED = re.compile(r"(?<![\w.-])(?<!json: )(?:[a-z]+_[a-z_]+|[a-z]+(?= (?:is|says|to|out)\b))")


def add_engine_options(verb: argparse.ArgumentParser) -> None:
    """Add the engine's options to a verb, in a group of their own."""
    add = verb.add_argument_group("the engine of each model").add_argument
    count = at_least(1)
    default = {field.name: field.default for field in dataclasses.fields(EngineConfig)}
    _add_device_options(add, default)
    add(
        "--dtype",
        default=default["dtype"],
        choices=DTYPES,
        help="type of weights and computation; auto: bfloat16 on a GPU; else float32, or a large checkpoint's own bfloat16",
    )
    add(
        "--kv-dtype",
        default=default["kv_dtype"],
        choices=KV_DTYPES,
        help="type of the KV cache; auto: as --dtype, int8 and fp8: a byte per value and a scale per head and token",
    )
    add(
        "--quantize",
        choices=SCHEMES,
        help="round the weights while they are loaded: int8 and fp8 by output channel, int4 by group of input channels",
    )
    add_rounding_options(add)
    add("--max-model-len", type=count, metavar="TOKENS", help="longest prompt and answer together; else the model's")
    add("--kv-memory", type=byte_size, metavar="SIZE", help="memory for the KV cache, such as 4GiB; else what fits")
    add("--block-size", type=count, default=default["block_size"], metavar="TOKENS", help="KV positions per block")
    add(
        "--max-running",
        type=count,
        metavar="N",
        help=f"sequences computed at the same time; else {CPU_LIMITS.max_running}, on a GPU {GPU_LIMITS.max_running}",
    )
    add(
        "--max-step-tokens",
        type=count,
        metavar="TOKENS",
        help=f"tokens computed in one step; else {CPU_LIMITS.max_step_tokens}, on a GPU {GPU_LIMITS.max_step_tokens}",
    )
    add(
        "--max-waiting-requests",
        type=count,
        default=default["max_waiting_requests"],
        metavar="N",
        help="requests queued before 429 is answered",
    )
    add(
        "--max-waiting-tokens",
        type=count,
        default=default["max_waiting_tokens"],
        metavar="N",
        help="prompt tokens queued before 429",
    )
    add("--no-prefix-cache", dest="prefix_cache", action="store_false", help="compute every prompt from its start")
    _add_computing_options(add, default)
    _add_speculation_options(add, default)


def _add_device_options(add: Callable[..., argparse.Action], default: dict[str, Any]) -> None:
    add(
        "--device",
        default=default["device"],
        metavar="DEVICE",
        help="where to compute: cpu, cuda or cuda:N; auto: cuda where torch finds a GPU",
    )
    add(
        "--tensor-parallel",
        type=at_least(1),
        default=default["tensor_parallel"],
        metavar="N",
        help="processes that share each layer, each on a device of its own",
    )
    add(
        "--pipeline-parallel",
        type=at_least(1),
        default=default["pipeline_parallel"],
        metavar="N",
        help="stages that share the layers, for a model that does not fit otherwise",
    )
    add(
        "--nnodes",
        type=at_least(1),
        default=default["nnodes"],
        metavar="N",
        help="machines that share these processes evenly; on the others run the verb worker",
    )
    add_meeting_options(add, "of this machine, which the others reach")
    add(
        "--batch-invariant",
        action="store_true",
        help="on a GPU, compute each sequence in the same way whoever shares its steps; slower",
    )


def add_meeting_options(add: Callable[..., argparse.Action], whose: str, *, is_required: bool = False) -> None:
    """Add the options that say where the machines of a model meet."""
    add("--master-addr", metavar="ADDRESS", required=is_required, help=f"with --nnodes: the address {whose}")
    add("--master-port", type=at_least(1), default=MASTER_PORT, metavar="PORT", help="with --nnodes: the port there")
    add(
        "--join-timeout",
        type=seconds,
        default=JOIN_TIMEOUT_S,
        metavar="SECONDS",
        help="with --nnodes: how long machines wait for each other at the start",
    )


def _add_computing_options(add: Callable[..., argparse.Action], default: dict[str, Any]) -> None:
    add(
        "--kernels",
        default=default["kernels"],
        choices=KERNELS,
        help="what computes: kernels compiled at installation, or torch; auto: those compiled, where they are",
    )
    add("--threads", type=at_least(1), metavar="N", help="threads of the engine; else one less than there are cores")


def add_rounding_options(add: Callable[..., argparse.Action], side: str = "") -> None:
    """Add the options that say how weights are rounded, for `--quantize` and for the verb of that name.

    `side` begins their names where there are two models: "baseline-".
    """
    add(
        f"--{side}group-size",
        type=at_least(1),
        choices=GROUP_SIZES,
        metavar="N",
        help="input channels that share a scale in int4: 32, 64 or 128; else the largest that divides all matrices",
    )
    add(
        f"--{side}quantize-method",
        choices=METHODS,
        help="awq scales channels by what a sample of text sends through them, round does not; "
        "else awq for int4 and round for int8 and fp8",
    )
    add(f"--{side}calibration", type=Path, metavar="FILE", help="the sample of text for awq; else one that is built in")


def _add_speculation_options(add: Callable[..., argparse.Action], default: dict[str, Any]) -> None:
    add(
        "--speculate",
        default=default["speculate"],
        choices=SPECULATION,
        help="draft tokens ahead: ngram from the text so far, draft with --draft-model; the answers stay the same",
    )
    add("--draft-model", type=_draft_model, metavar="MODEL", help="a directory, or amuse-draft; for --speculate draft")
    add(
        "--max-drafts",
        type=at_least(1),
        default=default["max_drafts"],
        metavar="N",
        help=f"tokens drafted for a sequence in one step, at most {MAX_DRAFTS}; fewer where fewer pay",
    )


def _draft_model(text: str) -> Path:
    if text != "amuse-draft":
        return Path(text)
    from servery import amuse  # an optional part: only where needed, so that serving other models goes without it

    return amuse.path("draft")


def add_quantize_options(verb: argparse.ArgumentParser) -> None:
    """Add the options of `servery quantize`."""
    add = verb.add_argument
    add("model", metavar="MODEL", help="a folder in Hugging Face layout, amuse or amuse-draft")
    add("out", type=Path, metavar="OUT", help="the folder to make")
    add("--scheme", default=INT4, choices=SCHEMES, help=_SCHEMES_HELP)
    add_rounding_options(add)
    add("--threads", type=at_least(1), metavar="N", help="threads to compute with; else one less than there are cores")


def engine_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings of an `EngineConfig` that the options give, all but the model and its adapters."""
    names = [field.name for field in dataclasses.fields(EngineConfig) if field.name not in _ELSEWHERE]
    return {name: getattr(options, _RENAMED.get(name, name)) for name in names}


def as_typed(error: Exception, options: argparse.Namespace) -> str:
    """What `error` says; one of a file with the file's name first, the engine's with the options of the verb in place of the settings that they stand for."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"  # str(error) begins with a number
    message = str(error)
    if not isinstance(error, EngineError):
        return message
    names = {field.name for field in dataclasses.fields(EngineConfig)}
    mentioned = [match[0] for match in _MENTIONED.finditer(message) if match[0] in names]
    side = next((each for each in _SIDES for name in mentioned if getattr(options, each + name, None) is not None), "")

    def typed(match: "re.Match[str]") -> str:
        flag = _flag(match[0], side, options) if match[0] in names else None
        return match[0] if flag is None else flag

    return _MENTIONED.sub(typed, message)


def _flag(setting: str, side: str, options: argparse.Namespace) -> str | None:
    """What a setting is called on the command line of the verb; None if it cannot be typed there."""
    name = _RENAMED.get(setting, setting)
    known = [each for each in (side + name, name, *(each + name for each in _SIDES)) if hasattr(options, each)]
    if setting == "quantize" and hasattr(options, "scheme"):
        known = ["scheme"]
    return f"--{known[0].replace('_', '-')}" if known and setting != "model" else None
