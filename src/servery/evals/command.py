"""The verbs of `servery eval`: each function's docstring is its help, `add_` its options.

The command line above sets `default_url` by the option's default, and `client_key`, which finds the key to send.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console

from servery.engine.config import DTYPES, KERNELS, KV_DTYPES
from servery.engine.quantization.scheme import SCHEMES
from servery.engine_options import add_rounding_options
from servery.evals.errors import OptionError
from servery.option_value import at_least, file_to_write

if TYPE_CHECKING:
    from servery.evals.remote import Endpoint
    from servery.evals.run import RunOptions

PASSED, FAILED = 0, 1
JUDGE_KEY_VARIABLE = "SERVERY_JUDGE_API_KEY"
FLIPS_SHOWN = 20
# How exactly an engine in this process computes: settings of `EngineConfig` with their choices.
PRECISION = {
    "dtype": (DTYPES, "type of weights and computation"),
    "quantize": (SCHEMES, "what the weights are rounded to while they are loaded"),
    "kv_dtype": (KV_DTYPES, "type of the KV cache"),
    "kernels": (KERNELS, "what computes; compiled kernels round the inputs of quantized layers to 8 bits"),
}
# How they are rounded; called as in `EngineConfig`.
ROUNDING = ("group_size", "quantize_method", "calibration")


def run(options: argparse.Namespace) -> int:
    """Answer a file of tasks, score the answers, and tell the accuracy of each stratum.

    TASKS is a file, or `amuse`: the questions that come with the package, held out from the training of its models.
    The system is a model behind any OpenAI-compatible address, or with --offline the engine in this process. Answers
    are greedy. Each is written to --out as it comes: after a kill the same command goes on, and asks again what had
    failed. The exit code is 1 when a task has no answer.

    Example:
      servery eval run tasks.jsonl --out baseline.jsonl --model amuse
      servery eval run tasks.jsonl --out int8.jsonl --url http://127.0.0.1:8001 --checkpoint /models/amuse-int8
      servery eval run tasks.jsonl --out offline.jsonl --offline /models/Qwen3-0.6B --dtype bfloat16
      servery eval run amuse --out amuse-int8-kv.jsonl --offline amuse --kv-dtype int8
    """
    from servery.evals import report
    from servery.evals import run as runs
    from servery.evals.compare import scores

    found = runs.run(_run_options(options))
    rows = scores(found)
    if options.json is not None:
        _write(options.json, {"header": found.header, "results_sha256": found.sha256, "strata": rows})
    if options.json != Path("-"):
        report.show_scores(rows, Console())
    for kind, count in runs.failures(found).items():
        print(f"error {kind}: {count} times", file=sys.stderr)  # noqa: T201 - this is the command line
    return FAILED if any(row.missing for row in rows) else PASSED


def compare(options: argparse.Namespace) -> int:
    """Compare two runs over the same tasks, answer by answer.

    Per stratum: the difference with its 95 % interval, the exact p-value of McNemar's test, and how many answers were
    lost and gained; then the tasks themselves.

    Example:
      servery eval compare baseline.jsonl int8.jsonl
      servery eval compare baseline.jsonl int8.jsonl --flips 100 --json difference.json
    """
    from servery.evals import report, results
    from servery.evals.compare import compare as compared

    found = compared(results.read(options.baseline), results.read(options.candidate))
    if options.json is not None:
        _write(options.json, found)
    if options.json != Path("-"):
        report.show_comparison(found, Console(), options.flips)
    return PASSED


def gate(options: argparse.Namespace) -> int:
    """Decide whether a candidate may replace a baseline, and write the verdict; or check a verdict written before.

    It passes only if in every stratum the one-sided 95 % lower bound of the relative difference is above -5 %. A
    stratum that is too small to tell fails. The verdict is bound by hash to weights, tokenizer, tasks, answers and
    version; --verify checks all of that again and judges the same answers anew. The exit code is 0 for a pass, else 1.

    Example:
      servery eval gate --baseline baseline.jsonl --candidate int8.jsonl --out int8.gate.json
      servery eval gate --verify int8.gate.json --tasks tasks.jsonl
    """
    _check_margin(options.margin)
    if options.verify is not None:
        if options.baseline is not None or options.candidate is not None:
            raise OptionError("--verify takes no --baseline and no --candidate; it names its own.")
        return _verify(options)
    if options.baseline is None or options.candidate is None:
        raise OptionError("give --baseline and --candidate, or --verify with a verdict written before.")
    from servery.evals import certificate, gate, report, results

    baseline, candidate = results.read(options.baseline), results.read(options.candidate)
    found = certificate.issue(options.out, baseline, candidate, options.margin, gate.CONFIDENCE)
    report.show_certificate(found, Console())
    return PASSED if found.passed else FAILED


def _verify(options: argparse.Namespace) -> int:
    from servery.evals import certificate, gate, report

    found = certificate.read(options.verify)
    report.show_certificate(found, Console())
    rule = certificate.Rule(options.margin, gate.CONFIDENCE)
    problems = certificate.problems(options.verify, found, rule, _optional(_tasks, options.tasks))
    for problem in problems:
        print(f"not verified: {problem}", file=sys.stderr)  # noqa: T201
    if not problems:
        print("verified")  # noqa: T201
    return FAILED if problems else PASSED


def fidelity(options: argparse.Namespace) -> int:
    """Compare how two models see the same texts, token by token: perplexity, divergence, agreement.

    TEXTS is a task file, of which the right answers are scored after their prompts, or `amuse`, or any other text,
    which is cut into windows. Both models run in this process and must have the same tokenizer. Per stratum: the
    perplexity of both and its relative change, the mean Kullback-Leibler divergence per token over the whole
    vocabulary (nats), and how often both find the same token most likely, each with a 95 % interval.

    Example:
      servery eval fidelity amuse --baseline amuse --candidate amuse --candidate-kv-dtype int8
      servery eval fidelity amuse --baseline amuse --candidate amuse --candidate-quantize int4 --limit 100
      servery eval fidelity book.txt --baseline /models/Qwen3-0.6B --candidate /models/Qwen3-0.6B-int4 --window 1024
    """
    from servery.evals import fidelity, report

    found = fidelity.measure(
        fidelity.FidelityOptions(
            texts=_tasks(options.texts),
            baseline=_checkpoint(options.baseline),
            candidate=_checkpoint(options.candidate),
            baseline_engine=_engine_settings(options, "baseline_"),
            candidate_engine=_engine_settings(options, "candidate_"),
            window=options.window,
            limit=options.limit,
            threads=options.threads,
        )
    )
    if options.json is not None:
        _write(options.json, found)
    if options.json != Path("-"):
        report.show_fidelity(found, Console())
    return PASSED


def add_fidelity(verb: argparse.ArgumentParser, *_: str) -> None:
    """The options of `servery eval fidelity`."""
    from servery.evals.fidelity import WINDOW

    add = verb.add_argument
    add("texts", type=Path, metavar="TEXTS", help="a task file (.jsonl, .jsonl.gz), amuse, or any other text")
    for side, what in (("baseline", "the model to be compared with"), ("candidate", "the model in question")):
        group = verb.add_argument_group(side).add_argument
        group(f"--{side}", type=Path, required=True, metavar="PATH", help=f"{what}: a folder, amuse or amuse-draft")
        for name, (choices, text) in PRECISION.items():
            group(f"--{side}-{name.replace('_', '-')}", choices=choices, help=text)
        add_rounding_options(group, f"{side}-")
    add("--window", type=int, default=WINDOW, metavar="TOKENS", help="of a text: how many tokens see each other")
    add("--limit", type=int, metavar="N", help="compare on the first N of each stratum only")
    add("--threads", type=at_least(1), metavar="N", help="threads of the engines; else one less than there are cores")
    add("--json", type=file_to_write, metavar="FILE", help="write the figures there; - for stdout instead of a table")


def add_run(verb: argparse.ArgumentParser, default_url: str, key_variable: str) -> None:
    """The options of `servery eval run`."""
    verb.add_argument("tasks", type=Path, metavar="TASKS", help="the task file: one JSON object per line; or amuse")
    verb.add_argument(
        "--out", type=file_to_write, required=True, metavar="FILE", help="the answers; an unfinished run goes on"
    )
    system = verb.add_argument_group("the system").add_mutually_exclusive_group()
    system.add_argument("--url", default=default_url, help="address; with a path it is taken like OpenAI's base_url")
    system.add_argument(
        "--offline",
        type=Path,
        metavar="PATH",
        help="a checkpoint's folder, a .gguf file, amuse or amuse-draft; in this process",
    )
    add = verb.add_argument
    add("--model", metavar="NAME", help="the model to ask for; else the first that the server lists")
    add("--api-key", metavar="KEY", help=f"the key to send; else ${key_variable}")
    add("--concurrency", type=int, default=8, metavar="N", help="requests at the same time")
    add("--timeout", type=float, default=600.0, metavar="SECONDS", help="longest time one answer may take")
    add("--checkpoint", type=Path, metavar="PATH", help="the files that the server serves: binds the answers to them")
    for name, (choices, text) in PRECISION.items():
        add(f"--{name.replace('_', '-')}", choices=choices, help=f"with --offline: {text}")
    add_rounding_options(add)
    add("--threads", type=at_least(1), metavar="N", help="with --offline: threads of the engine")
    add("--judge-url", metavar="URL", help="address of the model that judges, for tasks with the scorer judge")
    add("--judge-model", metavar="NAME", help="the model that judges; else the first that its server lists")
    add("--judge-api-key", metavar="KEY", help=f"the judge's key; else ${JUDGE_KEY_VARIABLE}")
    add("--json", type=file_to_write, metavar="FILE", help="write the figures there; - for stdout instead of a table")


def add_compare(verb: argparse.ArgumentParser, *_: str) -> None:
    """The options of `servery eval compare`."""
    verb.add_argument("baseline", type=Path, metavar="BASELINE", help="answers of the one, from servery eval run")
    verb.add_argument("candidate", type=Path, metavar="CANDIDATE", help="answers of the other to the same tasks")
    verb.add_argument(
        "--flips", type=at_least(0), default=FLIPS_SHOWN, metavar="N", help="how many differing tasks to list"
    )
    verb.add_argument(
        "--json", type=file_to_write, metavar="FILE", help="write everything there; - for stdout, no table"
    )


def add_gate(verb: argparse.ArgumentParser, *_: str) -> None:
    """The options of `servery eval gate`."""
    add = verb.add_argument
    add("--baseline", type=Path, metavar="FILE", help="answers of the system in use")
    add("--candidate", type=Path, metavar="FILE", help="answers of the one that may replace it")
    add("--margin", type=float, default=0.05, metavar="SHARE", help="the relative loss that is too much")
    add("--out", type=file_to_write, default=Path("gate.json"), metavar="FILE", help="the verdict")
    add("--verify", type=Path, metavar="FILE", help="check a verdict against files, version and margin as they are now")
    add("--tasks", type=Path, metavar="FILE", help="with --verify: the task file that should have been used")


def _run_options(options: argparse.Namespace) -> "RunOptions":
    from servery.evals.run import RunOptions

    is_offline = options.offline is not None
    _check_counts(options)
    for name in ("model", "checkpoint", "api_key") if is_offline else (*PRECISION, *ROUNDING, "threads"):
        if getattr(options, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise OptionError(f"{flag} does not go with {'--offline' if is_offline else '--url'}; leave it out.")
    return RunOptions(
        tasks=_tasks(options.tasks),
        out=options.out,
        endpoint=None if is_offline else _endpoint(options),
        offline=_optional(_checkpoint, options.offline),
        checkpoint=_optional(_checkpoint, options.checkpoint),
        engine={**_engine_settings(options), **({"threads": options.threads} if options.threads is not None else {})},
        judge=_judge(options),
    )


def _endpoint(options: argparse.Namespace) -> "Endpoint":
    from servery.evals.remote import Endpoint

    return Endpoint(
        url=options.url,
        model=options.model,
        api_key=options.client_key(options.api_key),
        timeout_s=options.timeout,
        concurrency=options.concurrency,
    )


def _judge(options: argparse.Namespace) -> "Endpoint | None":
    from servery.evals.remote import Endpoint

    if options.judge_url is None:
        return None
    return Endpoint(
        url=options.judge_url,
        model=options.judge_model,
        api_key=options.judge_api_key or os.environ.get(JUDGE_KEY_VARIABLE),
        timeout_s=options.timeout,
        concurrency=options.concurrency,
    )


def _engine_settings(options: argparse.Namespace, prefix: str = "") -> dict[str, Any]:
    """The precision that was asked, as settings of `EngineConfig` and as it is written beside the answers."""
    given = {name: getattr(options, prefix + name, None) for name in (*PRECISION, *ROUNDING)}
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in given.items() if value is not None
    }


def _optional(named: Callable[[Path], Path], path: Path | None) -> Path | None:
    return None if path is None else named(path)


def _checkpoint(path: Path) -> Path:
    """The folder that was named; `amuse` and `amuse-draft` are embedded models, unless a folder here is called so."""
    if path.is_dir():
        return path
    from servery import amuse

    sizes = {"amuse": amuse.DEFAULT, **{f"amuse-{size}": size for size in amuse.SIZES}}
    if str(path) not in sizes:
        return path
    try:
        return amuse.path(sizes[str(path)])
    except ValueError as error:
        raise OptionError(str(error)) from None


def _tasks(path: Path) -> Path:
    """The task file that was named; `amuse` is the one that is shipped, unless a file here is called so."""
    if path != Path("amuse") or path.exists():
        return path
    from servery import amuse

    return amuse.TASKS


def _check_counts(options: argparse.Namespace) -> None:
    if options.concurrency < 1:
        raise OptionError(f"--concurrency is {options.concurrency}; it must be at least 1.")
    if not 0 < options.timeout < math.inf:
        raise OptionError(f"--timeout is {options.timeout}; it must be a time in seconds, such as 30.")


def _check_margin(margin: float) -> None:
    if not 0 < margin < 1:
        raise OptionError(f"--margin is {margin}; it is a share between 0 and 1, such as 0.05.")


def _write(path: Path, value: Any) -> None:
    data = msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
    if path == Path("-"):
        sys.stdout.buffer.write(data)
    else:
        path.write_bytes(data)
