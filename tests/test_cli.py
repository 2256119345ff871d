"""The command line: what each verb is asked becomes one frozen value; what cannot be asked is refused in one line."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from servery import __version__, cli
from servery.bench import command as bench_command
from servery.bench.errors import Unreachable
from servery.engine.adapter_source import AdapterSource
from servery.engine.config import EngineConfig
from servery.engine.errors import LoadError
from servery.engine.supported import ARCHITECTURES
from servery.server.key_options import ADMIN_KEY_VARIABLE, KEY_VARIABLE, METRICS_KEY_VARIABLE
from servery.server.options import ServedModel, ServeOptions

HEAVY = ("torch", "numpy", "transformers", "tokenizers", "safetensors", "jinja2")


@pytest.fixture(autouse=True)
def private_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test runs in a directory of its own, without keys in its environment."""
    monkeypatch.chdir(tmp_path)
    for variable in (KEY_VARIABLE, ADMIN_KEY_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "model").mkdir()
    return tmp_path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[object]]:
    """Replace what a verb runs by something that notes what it was asked."""

    def replace(module_name: str, error: Exception | None = None) -> list[object]:
        calls: list[object] = []

        def run(options: object) -> int:
            calls.append(options)
            if error is not None:
                raise error
            return cli.DONE

        module = ModuleType(module_name)
        module.__dict__.update(run=run, ChatOptions=dict, BenchOptions=dict)
        monkeypatch.setitem(sys.modules, module_name, module)
        return calls

    return replace


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


MEASURING = ("run", "trace", "goodput", "sweep", "compare", "report")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["serve", "--help"],
        ["chat", "--help"],
        ["bench", "--help"],
        ["eval", "run", "--help"],
        ["models"],
    ],
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from servery.cli import main
try:
    main({arguments!r})
except SystemExit as exit:
    assert exit.code == 0, exit.code
print("loaded", [name for name in {HEAVY!r} if name in sys.modules])
"""
    assert run_python(code).stdout.splitlines()[-1] == "loaded []"


def test_models_lists_every_architecture_and_quantization_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["models"]) == cli.DONE
    *lines, blank, formats, files = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(ARCHITECTURES)
    assert blank == ""
    assert formats.startswith("Quantized checkpoints of these, by quant_method: awq, gptq, fp8, ")
    assert files.startswith("GGUF files, by general.architecture: llama, qwen2, qwen3, ")
    assert cli.main(["models", "--json"]) == cli.DONE
    expected = [
        {"architecture": name, "families": each.families, "note": each.note} for name, each in ARCHITECTURES.items()
    ]
    assert json.loads(capsys.readouterr().out) == expected


def test_every_verb_has_help_that_ends_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("serve", "chat", "bench", *(f"bench {verb}" for verb in MEASURING), "quantize", "models"):
        with pytest.raises(SystemExit):
            cli.main([*name.split(), "--help"])
        assert f"Example:\n  servery {name}" in capsys.readouterr().out


def test_every_example_is_one_that_runs(asked: Callable[..., list[object]]) -> None:
    """The command lines in the docstrings parse."""
    measuring = {f"bench {verb}": getattr(bench_command, verb).__doc__ for verb in MEASURING}
    others = {verb.__name__: verb.__doc__ for verb in (cli.serve, cli.chat, cli.quantize, cli.models)}
    for name, text in {**others, **measuring}.items():
        for line in filter(None, map(str.strip, (text or "").partition("Example:")[2].split("\n"))):
            words = line.rpartition("| ")[2].replace('"Answer in one sentence."', "Shortly.").split()
            assert cli.parser().parse_args(words[1:]).verb == name


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["--version"])
    assert (left.value.code, capsys.readouterr().out) == (0, f"servery {__version__}\n")


def test_python_m_servery_is_the_same_program() -> None:
    done = subprocess.run([sys.executable, "-m", "servery", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"servery {__version__}\n")


def test_serve_without_options_uses_the_defaults_of_engine_and_server(asked: Callable[..., list[object]]) -> None:
    calls = asked("servery.server.serve")
    assert cli.main(["serve", "model"]) == cli.DONE
    assert calls == [ServeOptions(models=(ServedModel(name="model", engine=EngineConfig(model=Path("model"))),))]


def test_every_flag_of_serve_arrives(asked: Callable[..., list[object]], monkeypatch: pytest.MonkeyPatch) -> None:
    calls = asked("servery.server.serve")
    monkeypatch.setenv(KEY_VARIABLE, "from-environment, another")
    monkeypatch.setenv(ADMIN_KEY_VARIABLE, "admin-from-environment")
    monkeypatch.setenv(METRICS_KEY_VARIABLE, "scraper-from-environment")
    Path("keys").write_text("# team\nfrom-file\n  # gone: old-key\n\n")
    flags = """serve a=model b=model --host 0.0.0.0 --port 0 --api-key one --api-key two --api-key-file keys
        --drain-timeout 1.5 --request-timeout 9 --max-body 1MiB --log-level debug --dtype bfloat16 --max-model-len 512
        --kv-memory 4GiB --block-size 32 --max-running 8 --max-step-tokens 128 --max-waiting-requests 3
        --max-waiting-tokens 4 --no-prefix-cache --threads 2 --lora b:x=model --lora-dir . --max-loras 3
        --max-lora-rank 16 --admin-key root --metrics-key reader"""
    assert cli.main(flags.split()) == cli.DONE
    engine = EngineConfig(
        model=Path("model"),
        dtype="bfloat16",
        max_model_len=512,
        kv_memory_bytes=4 << 30,
        block_size=32,
        max_running=8,
        max_step_tokens=128,
        max_waiting_requests=3,
        max_waiting_tokens=4,
        prefix_cache=False,
        threads=2,
        max_loras=3,
        max_lora_rank=16,
    )
    with_adapter = dataclasses.replace(engine, adapters=(AdapterSource("x", Path("model")),))
    assert calls == [
        ServeOptions(
            models=(ServedModel(name="a", engine=engine), ServedModel(name="b", engine=with_adapter)),
            host="0.0.0.0",
            port=0,
            api_keys=("one", "two", "from-file", "from-environment", "another"),
            admin_keys=("root", "admin-from-environment"),
            metrics_keys=("reader", "scraper-from-environment"),
            drain_timeout_s=1.5,
            request_timeout_s=9.0,
            max_body_bytes=1 << 20,
            log_level="debug",
            lora_dir=Path(),
        )
    ]


def test_the_keys_in_the_environment_are_not_handed_on(
    asked: Callable[..., list[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked("servery.server.serve")
    variables = {KEY_VARIABLE, ADMIN_KEY_VARIABLE, METRICS_KEY_VARIABLE}
    for variable in variables:
        monkeypatch.setenv(variable, "secret")
    assert cli.main(["serve", "model"]) == cli.DONE
    assert variables & {*os.environ} == set()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("", "VERB"),
        ("fry", "invalid choice: 'fry'"),
        ("serve --kv-memory 4XB", "'4XB' is not a size; write bytes (1048576)"),
        ("serve --max-body -1", "--max-body"),
        ("serve --port eighty", "'eighty' is not a whole number of at least 0"),
        ("serve --threads 0", "'0' is not a whole number of at least 1"),
        ("serve --drain-timeout nan", "'nan' is not a time in seconds"),
        ("serve --dtype int3", "invalid choice: 'int3'"),
        ("serve --por 1", "servery serve: error: unrecognized arguments: --por. Did you mean '--port'?"),
        ("serve --max-runing 3", "usage: servery serve [-h]"),
        ("serve --max-runing=3", "unrecognized arguments: --max-runing=3. Did you mean '--max-running'?"),
        ("chat --zzz", "servery chat: error: unrecognized arguments: --zzz\n"),
        ("chat 9", "servery chat: error: unrecognized arguments: 9\n"),
        ("bench", "the following arguments are required: VERB"),
        ("bench run --prompt-tokens 9:2", "'9:2'"),
        ("bench run --prompt-tokens lognormal:5", "lognormal:200,600"),
        ("bench run --output-tokens 0", "'0'"),
        ("bench run --concurrency 0", "'0' is not a whole number of at least 1"),
        ("bench run --rate 0", "'0' is not a rate"),
        ("bench run --rate 1 --concurrency 2", "not allowed with argument --rate"),
        ("bench run --rate 1 --arrivals often", "poisson, constant, gamma:CV"),
        ("bench goodput --attainment 100%", "cannot be shown"),
        ("bench sweep", "one of the arguments --rates --clients is required"),
        ("bench sweep --rates 1,x", "'x' is not a rate"),
        ("bench sweep --rates nan", "'nan' is not a rate"),
        ("bench sweep --clients 0.4", "'0.4' is not a whole number of at least 1"),
        ("bench run --html -", "a page goes to a file"),
        ("bench trace chat --prompt-tokens 9", "unrecognized arguments: --prompt-tokens 9"),
        ("bench compare --repeats 2", "'2' is not a whole number of at least 3"),
        ("bench trace", "the following arguments are required: TRACE"),
    ],
)
def test_a_bad_word_is_refused_with_the_rule(words: str, complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(words.split())
    said = capsys.readouterr()
    assert (left.value.code, said.out) == (cli.USAGE, "")
    assert complaint in said.err


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (
            "serve nowhere",
            cli.USAGE,
            "'nowhere' is neither a directory with a checkpoint, nor a .gguf file, nor an embedded model",
        ),
        ("serve model --port 70000", cli.USAGE, "--port is 70000"),
        (
            "serve model --max-running 9 --max-step-tokens 8",
            cli.FAILED,
            "--max-running is 9 and --max-step-tokens is 8; a step must have room",
        ),
        ("serve model --api-key-file none", cli.USAGE, "the keys in none cannot be read: No such file or directory"),
        ("serve model --api-key-file model", cli.USAGE, "the keys in model cannot be read: Is a directory"),
        ("serve model --api-key-file binary", cli.USAGE, "the keys in binary cannot be read: it is not UTF-8"),
        ("serve model --api-key-file empty", cli.USAGE, "empty has no key"),
        ("bench run --url ftp://x", cli.USAGE, "'ftp://x' is not an address"),
        ("bench run --slo ttfb:1s", cli.USAGE, "--slo: 'ttfb:1s' is no part of an SLO"),
        ("bench run --attainment 99%", cli.USAGE, "--attainment and --cost-per-hour judge by an SLO"),
        ("bench run --slo ttft:1s,ttft:2s", cli.USAGE, "limits the same figure twice"),
        ("bench run --arrivals constant", cli.USAGE, "give its rate, too"),
        ("bench sweep --clients 2 --arrivals constant", cli.USAGE, "give its rate, too"),
        ("bench run --json x --html x", cli.USAGE, "would both write 'x'"),
        ("bench goodput --requests 100", cli.FAILED, "ask for at least 268"),
        ("bench report x.json", cli.FAILED, "the page to write with --html"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_no_traceback(
    words: str, code: int, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").touch()
    Path("binary").write_bytes(b"\xff\xfe")
    assert cli.main(words.split()) == code
    said = capsys.readouterr()
    verb = " ".join(words.split()[: 2 if words.startswith("bench") else 1])
    assert (said.out, said.err.startswith(f"servery {verb}: ")) == ("", True)
    assert complaint in said.err.splitlines()[0]


@pytest.mark.parametrize("verb", ["chat", "bench run"])
def test_nobody_at_the_default_address_says_how_to_start_one(
    verb: str, asked: Callable[..., list[object]], capsys: pytest.CaptureFixture[str]
) -> None:
    asked({"chat": "servery.chat.terminal", "bench run": "servery.bench.run"}[verb], Unreachable("nobody there"))
    hint = "Start a server with `servery serve`, or name another address with --url.\n"
    assert cli.main(verb.split()) == cli.FAILED
    assert capsys.readouterr().err == f"servery {verb}: nobody there\n{hint}"
    assert cli.main([*verb.split(), "--url", "http://x"]) == cli.FAILED
    assert capsys.readouterr().err == f"servery {verb}: nobody there\n"


@pytest.mark.parametrize("error", [LoadError("no weights"), OSError(98, "Address already in use")])
def test_our_errors_become_exit_code_1(
    error: Exception, asked: Callable[..., list[object]], capsys: pytest.CaptureFixture[str]
) -> None:
    asked("servery.server.serve", error)
    assert cli.main(["serve", "model"]) == cli.FAILED
    assert capsys.readouterr().err == f"servery serve: {error}\n"


def test_a_missing_engine_says_how_to_install_it(
    asked: Callable[..., list[object]], capsys: pytest.CaptureFixture[str]
) -> None:
    asked("servery.server.serve", ModuleNotFoundError("No module named 'torch'", name="torch"))
    code = cli.main(["serve", "model"])
    said = "torch is missing: the embedded engine is not installed; pip install 'servery[engine]' brings it."
    assert (code, capsys.readouterr().err) == (cli.FAILED, f"servery serve: {said}\n")


def test_a_bug_is_not_hidden(asked: Callable[..., list[object]]) -> None:
    asked("servery.server.serve", ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError):
        cli.main(["serve", "model"])


def test_quantize_writes_a_folder_and_says_what_it_saves(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["quantize", "amuse-draft", "small", "--scheme", "int8", "--threads", "1"]) == cli.DONE
    shown = capsys.readouterr().out
    assert re.fullmatch(r"small: [\d.]+ .iB of weights instead of [\d.]+ .iB, int8 by output channel, .*\n", shown)
    assert json.loads(Path("small/config.json").read_text())["quantization_config"]["format"] == "pack-quantized"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["amuse", "out", "--scheme", "int8", "--group-size", "32"],
            "--group-size is 32, but int8 has a scale per output",
        ),
        (
            ["amuse", "out", "--group-size", "128"],
            "--group-size 128 does not divide the 160 input features of model.layers",
        ),
        (
            ["amuse", "out", "--quantize-method", "round", "--calibration", "t.md"],
            "--calibration is for the method awq; set --quantize-method to awq",
        ),
        (["amuse", "out", "--calibration", "t.md"], "the calibration text t.md cannot be read: No such file"),
        (["nowhere", "out"], "'nowhere' is neither a directory with a checkpoint"),
        (["model", "out"], "there is no model in model: it has notes.txt; expected are config.json, tokenizer.json"),
        (["amuse", "model/notes.txt"], "notes.txt exists and is not this model quantized this way"),
    ],
)
def test_quantize_refuses_in_one_line_and_writes_nothing(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("model/notes.txt").touch()
    assert cli.main(["quantize", *arguments]) in {cli.FAILED, cli.USAGE}
    assert complaint in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["model"]


@pytest.mark.parametrize("arguments", [["--scheme", "int3"], ["--group-size", "48"], ["--quantize-method", "gptq"]])
def test_quantize_lists_what_can_be_chosen(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["quantize", "amuse", "out", *arguments])
    assert "invalid choice" in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["SERVERY_API_KEY", "SERVERY_ADMIN_KEY"])
def test_a_variable_without_a_key_in_it_is_not_taken_for_no_keys(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, " ,")
    assert cli.main(["serve", "amuse", "--port", "0"]) == 2
    assert f"${variable} is set and has no key in it" in capsys.readouterr().err
