"""The command line: one verb per function, whose docstring is its help.

What a verb needs is imported inside it, so that `servery --help` is quick and loads no torch. Results go to stdout,
progress and complaints to stderr. The exit code is 0 when it is done, 1 when it failed or was judged bad, 2 when it
was asked for wrongly. Only `main` catches errors.
"""

import argparse
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from servery import __version__
from servery.bench import command as bench_command
from servery.byte_size import format_byte_size
from servery.engine.parsing.format import REASONING_FORMATS, TOOL_FORMATS
from servery.engine_options import add_engine_options, add_quantize_options, as_typed, engine_settings
from servery.option_value import at_least, between, byte_size, file_to_write, seconds
from servery.server.key_options import KEY_VARIABLE, add_key_options, keys_in_environment
from servery.server.worker_command import add_worker_options, worker

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
DEFAULT_URL = "http://127.0.0.1:8000"
# What the extra `engine` installs and the gateway does without.
ENGINE_MODULES = frozenset({"gguf", "jinja2", "llguidance", "numpy", "safetensors", "tokenizers", "torch"})

Verb = Callable[[argparse.Namespace], int]


class UsageError(Exception):
    """The command line cannot be used as it was given; the message says what to type instead."""


def serve(options: argparse.Namespace) -> int:
    """Serve one or more models over the OpenAI API.

    A MODEL is a directory in Hugging Face layout, a .gguf file, NAME=PATH to choose the name that clients ask for, or
    one of the embedded models `amuse` and `amuse-draft`. Without one, `amuse` is served. --lora sql=DIRECTORY adds a
    LoRA adapter over it, which clients ask for as `amuse:sql`.

    Example:
      servery serve --port 8000
      servery serve qwen=/models/Qwen3-0.6B --dtype bfloat16 --kv-memory 4GiB --api-key-file keys.txt
      servery serve qwen=/models/Qwen3-0.6B --lora sql=/adapters/sql --lora chat=/adapters/chat
      servery serve --config servery.yaml
    """
    from servery.server.command import serve_options
    from servery.server.serve import run

    return run(serve_options(options, vars(parser().parse_args(["serve"]))))


def chat(options: argparse.Namespace) -> int:
    """Talk to a model in the terminal, over any OpenAI-compatible address.

    Answers are streamed; each is followed by its time to the first token and its tokens per second. /help lists the
    commands. Ctrl-C interrupts an answer, Ctrl-D leaves. Lines from a pipe are answered one after the other.

    Example:
      servery chat
      servery chat --url https://api.openai.com/v1 --model gpt-5-mini --system "Answer in one sentence."
      echo "How many minutes are 3 hours?" | servery chat
    """
    from servery.chat.terminal import ChatOptions, run

    return run(
        ChatOptions(
            url=options.url,
            model=options.model,
            api_key=_client_key(options.api_key),
            system=options.system,
            load=options.load,
            sampling=_given(options, "temperature", "top_p", "max_tokens", "seed"),
            timeout_s=options.timeout,
        )
    )


def roofline(options: argparse.Namespace) -> int:
    """Measure this machine, and how near to its limits the steps of a model come.

    Prints the read bandwidth and the rate of matrix products by type; then, for steps that decode 1, 8 and 32 rows and
    one that reads a piece of a prompt, where the time goes: bytes read and operations of each part, and the share of the
    limit that the larger of the two sets. MODEL is what `servery serve` takes; without one, `amuse`.

    Example:
      servery bench roofline
      servery bench roofline /models/Qwen3-0.6B --dtype bfloat16 --context 1024 --json roofline.json
    """
    from servery.bench.roofline import RooflineOptions, run
    from servery.engine.threads import usable_cores
    from servery.server.options import served_models

    (model,) = served_models([options.model] if options.model else [], engine_settings(options))
    threads = options.threads or max(1, usable_cores() - 1)
    return run(RooflineOptions(engine=model.engine, threads=threads, context=options.context, json_path=options.json))


def models(options: argparse.Namespace) -> int:
    """List the architectures that the engine runs, and the formats of quantized weights that it loads.

    What a checkpoint is stands in its config.json under `architectures`, and under `quantization_config` as
    `quant_method`; what a GGUF file is, in its metadata under `general.architecture`. The third column says what the
    engine does for that architecture beyond a plain decoder.

    Example:
      servery models
      servery models --json
    """
    from servery.engine.gguf.families import FAMILIES
    from servery.engine.quantization.config import QUANTIZATION_METHODS
    from servery.engine.supported import ARCHITECTURES

    rows = [(name, each.families, each.note) for name, each in ARCHITECTURES.items()]
    if options.json:
        print(json.dumps([dict(zip(("architecture", "families", "note"), row, strict=True)) for row in rows], indent=2))
        return DONE
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, families, note in rows:
        print(f"{name:{widths[0]}}  {families:{widths[1]}}  {note}")
    print(f"\nQuantized checkpoints of these, by quant_method: {', '.join(QUANTIZATION_METHODS)}.")
    print(f"GGUF files, by general.architecture: {', '.join(FAMILIES)}.")
    return DONE


def quantize(options: argparse.Namespace) -> int:
    """Write a checkpoint with its weights rounded to 8 or 4 bits, which loads at once and takes that much less memory.

    MODEL is a folder in Hugging Face layout, amuse or amuse-draft; OUT is a new folder, in a layout that vLLM and
    transformers read as well (compressed-tensors). It goes layer by layer; when it is stopped, even by a kill, the same
    command goes on. `servery serve MODEL --quantize int4` does the same while it loads, each time.

    Example:
      servery quantize /models/Qwen3-0.6B /models/Qwen3-0.6B-int4
      servery quantize amuse amuse-int8 --scheme int8
    """
    from servery.engine.architecture import ModelConfig
    from servery.engine.loading_bar import LoadingBar
    from servery.engine.quantization.scheme import check_choice, plan_rounding
    from servery.engine.quantizer.writer import write_quantized
    from servery.engine.threads import use_threads
    from servery.server.options import served_models

    (named,) = served_models([options.model], {})
    model = named.engine.model
    check_choice(options.scheme, options.group_size, options.quantize_method, options.calibration is not None)
    config = ModelConfig.load(model)
    plan = plan_rounding(config, options.scheme, group_size=options.group_size, method=options.quantize_method)
    use_threads(options.threads)
    with LoadingBar(f"quantizing {model.name}") as progress:
        written = write_quantized(model, options.out, plan, options.calibration, progress=progress)
    before, after = format_byte_size(written.bytes_before), format_byte_size(written.bytes_after)
    print(f"{written.path}: {after} of weights instead of {before}, {plan.description}")
    return DONE


def parser() -> argparse.ArgumentParser:
    """The whole command line; `docs/cli.md` is generated from it."""
    top = argparse.ArgumentParser(
        prog="servery",
        description="Serve language models: an inference engine, an OpenAI-compatible server and the instruments.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Start with `servery serve` in one terminal and `servery chat` in another.",
    )
    top.add_argument("--version", action="version", version=f"servery {__version__}")
    verbs = top.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True, parser_class=_VerbParser)
    _add_serve(_add_verb(verbs, serve))
    _add_chat(_add_verb(verbs, chat))
    _add_bench(verbs)
    add_worker_options(_add_verb(verbs, worker))
    add_quantize_options(_add_verb(verbs, quantize))
    _add_verb(verbs, models).add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    _add_eval(verbs)
    _add_config(verbs)
    _add_ledger(verbs)
    _add_keys(verbs)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; the only place that turns our errors into one line."""
    options = parser().parse_args(arguments)
    run: Verb = options.run
    try:
        return run(options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has left: nothing more to say
        return FAILED
    except _usage_errors() as error:
        return _complain(options, error, USAGE)
    except _our_errors() as error:
        return _complain(options, error, FAILED)
    except ModuleNotFoundError as error:
        if error.name not in ENGINE_MODULES:
            raise
        advice = "the embedded engine is not installed; pip install 'servery[engine]' brings it"
        return _complain(options, UsageError(f"{error.name} is missing: {advice}."), FAILED)


def _usage_errors() -> tuple[type[Exception], ...]:
    from servery.bench.errors import BadAddress
    from servery.config.errors import ConfigError
    from servery.evals.errors import OptionError as EvalOptionError
    from servery.server.option_error import OptionError

    return (UsageError, bench_command.UsageError, BadAddress, ConfigError, EvalOptionError, OptionError)


def _our_errors() -> tuple[type[Exception], ...]:
    from servery.bench.errors import ClientError
    from servery.chat.conversation import ConversationError
    from servery.engine.errors import EngineError
    from servery.evals.errors import EvalError
    from servery.telemetry.ledger.errors import LedgerError

    return (ClientError, ConversationError, EngineError, EvalError, LedgerError, OSError)


def _complain(options: argparse.Namespace, error: Exception, code: int) -> int:
    print(f"servery {options.verb}: {as_typed(error, options)}", file=sys.stderr)
    if code == USAGE:
        print(f"Try `servery {options.verb} --help`.", file=sys.stderr)
    elif _is_nobody_there(error) and getattr(options, "url", None) == DEFAULT_URL:
        print("Start a server with `servery serve`, or name another address with --url.", file=sys.stderr)
    return code


def _is_nobody_there(error: Exception) -> bool:
    from servery.bench.errors import Unreachable

    return isinstance(error, Unreachable)


def _add_verb(verbs: "argparse._SubParsersAction[_VerbParser]", run: Verb) -> argparse.ArgumentParser:
    text = inspect.getdoc(run) or ""
    verb = verbs.add_parser(
        run.__name__,
        help=text.partition("\n")[0],
        description=text,
        formatter_class=_VerbHelp,
        allow_abbrev=False,
    )
    verb.set_defaults(run=run)
    return verb


class _VerbParser(argparse.ArgumentParser):
    """Complains of words that it does not know with the verb's own usage, which argparse leaves to the whole program."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Everything must be known."""
        from servery.wire.errors import did_you_mean

        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0].partition("=")[0]
            hint = did_you_mean(flag, self._option_string_actions) if flag.startswith("--") else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint and '.'}{hint}")
        return found, unknown


class _VerbHelp(argparse.RawDescriptionHelpFormatter):
    """Keeps the docstring's lines, and shows the default of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_shown = action.default not in (None, False, [], argparse.SUPPRESS) and action.nargs != 0
        return f"{action.help} (default %(default)s)" if is_shown and action.option_strings else action.help


def _add_serve(verb: argparse.ArgumentParser) -> None:
    from servery.server.adapter_options import add_adapter_options
    from servery.server.residence_options import add_residence_options

    verb.add_argument(
        "models", nargs="*", metavar="MODEL", help="a directory, a .gguf file, NAME=PATH, amuse or amuse-draft"
    )
    add = verb.add_argument_group("the server").add_argument
    add("--config", type=Path, metavar="FILE", help="serve the models of a configuration; `servery config example`")
    add(
        "--ledger",
        metavar="FILE",
        help="keep a row for every exchange there, in SQLite or at postgresql://...; no content",
    )
    add(
        "--alias",
        action="append",
        default=[],
        metavar="ALIAS=MODEL",
        help="answer requests for ALIAS with MODEL, a served model or model:adapter; repeatable; '*' is every other name",
    )
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all of this machine's")
    add("--port", type=at_least(0), default=8000, help="port to listen on; 0: the system chooses")
    add("--workers", type=at_least(1), default=1, metavar="N", help="processes that share the port, with --config")
    add_key_options(add)
    add("--ceilings", type=Path, metavar="FILE", help="peaks for MBU and MFU, as `servery bench roofline` writes them")
    add("--drain-timeout", type=seconds, default=30.0, metavar="SECONDS", help="time to finish answers after SIGTERM")
    add("--request-timeout", type=seconds, default=600.0, metavar="SECONDS", help="longest time one answer may take")
    add("--max-body", type=byte_size, default="4MiB", metavar="SIZE", help="largest request body")
    add("--files", type=Path, metavar="FOLDER", help="keep clients' files and batches there; without it there are none")
    add("--max-file", type=byte_size, default="200MiB", metavar="SIZE", help="largest of those files")
    add("--max-files", type=byte_size, default="10GiB", metavar="SIZE", help="all of those files together")
    add(
        "--tool-format",
        default="auto",
        metavar="FORMAT",
        help="how the models write tool calls: " + ", ".join(TOOL_FORMATS) + ", none, or what their templates show",
    )
    add(
        "--reasoning-format",
        default="auto",
        metavar="FORMAT",
        help="how they write reasoning: " + ", ".join(REASONING_FORMATS) + ", none, or what their templates show",
    )
    add("--log-level", default="info", choices=("debug", "info", "warning", "error"), help="what is logged")
    add("--log-format", choices=("text", "json"), help="lines for people, or objects for programs (default text)")
    add_residence_options(verb)
    add_adapter_options(verb)
    add_engine_options(verb)


def _add_client(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    add("--url", default=DEFAULT_URL, help="address of the server; with a path it is taken like OpenAI's base_url")
    add("--model", metavar="NAME", help="the model to ask for; else the first that the server lists")
    add("--api-key", metavar="KEY", help=f"the key to send; else ${KEY_VARIABLE}")
    add("--timeout", type=seconds, default=600.0, metavar="SECONDS", help="longest time one answer may take")
    add("--seed", type=int, metavar="N", help="seed of everything random")
    add("--temperature", type=between(0, 100), metavar="T", help="0 takes the most likely token")


def _add_chat(verb: argparse.ArgumentParser) -> None:
    _add_client(verb)
    add = verb.add_argument
    add("--system", metavar="TEXT", help="the system prompt")
    add("--load", type=Path, metavar="FILE", help="go on with a conversation saved by /save")
    add(
        "--top-p",
        type=between(0, 1),
        metavar="P",
        help="sample from the most likely tokens that sum to this probability",
    )
    add("--max-tokens", type=at_least(1), metavar="N", help="longest answer")


def _add_bench(verbs: "argparse._SubParsersAction[_VerbParser]") -> None:
    text = bench_command.HELP
    group = verbs.add_parser(
        "bench",
        help=text.partition("\n")[0],
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parts = group.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=_VerbParser)

    def add(run: Verb) -> argparse.ArgumentParser:
        verb = _add_verb(parts, run)
        verb.set_defaults(verb=f"bench {run.__name__}", client_key=_client_key)
        return verb

    bench_command.add_verbs(add, _add_client)
    _add_roofline(add(roofline))


def _add_roofline(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", nargs="?", metavar="MODEL", help="a directory, a GGUF file, amuse or amuse-draft")
    context = "length of what decodes (default: 512, or the model's context if that is less)"
    verb.add_argument("--context", type=at_least(1), metavar="TOKENS", help=context)
    verb.add_argument("--json", type=file_to_write, metavar="FILE", help="write everything measured there")
    add_engine_options(verb)


def _add_eval(verbs: "argparse._SubParsersAction[_VerbParser]") -> None:
    """The verbs after `servery eval`, which live in a file of their own."""
    from servery.evals import command

    text = "Evaluate a system on tasks, compare two systems, decide whether one may replace the other."
    group = verbs.add_parser("eval", help=text, description=text, allow_abbrev=False)
    parts = group.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=_VerbParser)
    for run, add_options in (
        (command.run, command.add_run),
        (command.compare, command.add_compare),
        (command.fidelity, command.add_fidelity),
        (command.gate, command.add_gate),
    ):
        verb = _add_verb(parts, run)
        verb.set_defaults(verb=f"eval {run.__name__}", client_key=_client_key)
        add_options(verb, DEFAULT_URL, KEY_VARIABLE)


def _add_config(verbs: "argparse._SubParsersAction[_VerbParser]") -> None:
    """The verbs after `servery config`, which live in a file of their own."""
    from servery.config import command

    text = "Check a configuration file, or write an example or the schema of one."
    group = verbs.add_parser("config", help=text, description=text, allow_abbrev=False)
    parts = group.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=_VerbParser)
    command.add_check(_add_verb(parts, command.check), _engine_faults)
    _add_verb(parts, command.schema)
    _add_verb(parts, command.example)


def _engine_faults(model: str, engine: Mapping[str, object]) -> "Iterable[tuple[tuple[str | int, ...], str]]":
    from servery.server.configured_engine import engine_faults

    return engine_faults(model, engine)


def _add_ledger(verbs: "argparse._SubParsersAction[_VerbParser]") -> None:
    """The verbs after `servery ledger`, which live in a file of their own."""
    from servery.telemetry.ledger import command

    text = "Ask a ledger what was used and spent, export its rows, list what administrators did."
    group = verbs.add_parser("ledger", help=text, description=text, allow_abbrev=False)
    parts = group.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=_VerbParser)
    for run, add_options in (
        (command.report, command.add_report),
        (command.export, command.add_export),
        (command.audit, command.add_audit),
    ):
        verb = _add_verb(parts, run)
        verb.set_defaults(verb=f"ledger {run.__name__}")
        add_options(verb)


def _add_keys(verbs: "argparse._SubParsersAction[_VerbParser]") -> None:
    """The verbs after `servery keys`, which live in a file of their own."""
    from servery.server import keys_command as command

    text = "Make, list, rotate and revoke keys, with what each may do and how much."
    group = verbs.add_parser("keys", help=text, description=text, allow_abbrev=False)
    parts = group.add_subparsers(title="verbs", metavar="VERB", required=True, parser_class=_VerbParser)
    command.add_create(_add_verb(parts, command.create))
    command.add_list(_add_verb(parts, command.list))
    command.add_rotate(_add_verb(parts, command.rotate))
    command.add_revoke(_add_verb(parts, command.revoke))


def _given(options: argparse.Namespace, *names: str) -> dict[str, float | int]:
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _client_key(given: str | None) -> str | None:
    return given or next(iter(keys_in_environment(KEY_VARIABLE)), None)
