"""What the engine says of its settings is told in the words of the command line."""

from pathlib import Path

import pytest

from servery import cli
from servery.engine.config import EngineConfig
from servery.engine.errors import LoadError
from servery.engine_options import as_typed, engine_settings


@pytest.mark.parametrize(
    ("words", "message", "typed"),
    [
        (
            "serve",
            "max_running is 9 and max_step_tokens is 8; raise max_step_tokens.",
            "--max-running is 9 and --max-step-tokens is 8; raise --max-step-tokens.",
        ),
        (
            "serve",
            "quantize_method says how to quantize, but not to what: set quantize to int8, int4 or fp8.",
            "--quantize-method says how to quantize, but not to what: set --quantize to int8, int4 or fp8.",
        ),
        ("serve", "kv_memory_bytes is 0; it must", "--kv-memory is 0; it must"),
        ("serve", "max_loras is 1 and 2 adapters are to be loaded", "--max-loras is 1 and 2 adapters are to be loaded"),
        ("serve", 'speculate is "draft", but', '--speculate is "draft", but'),
        # Fields of files, options that are named already, and words that only sound like settings.
        ("serve", "a/config.json: dtype is 5; it must", "a/config.json: dtype is 5; it must"),
        ("serve", "config.json: quantization_config.group_size is 5", "config.json: quantization_config.group_size is 5"),
        ("serve", "the model is gone; --max-model-len is 5", "the model is gone; --max-model-len is 5"),
        ("serve", "sleep_dir is full; threads wait", "--sleep-dir is full; threads wait"),
        ("quantize a b", "set quantize to int8; group_size is 32", "set --scheme to int8; --group-size is 32"),
        ("bench roofline", "dtype is 'x'", "--dtype is 'x'"),
        ("eval run t --out o --offline m --group-size 32", "group_size is 32, but", "--group-size is 32, but"),
        (
            "eval fidelity t --baseline b --candidate c --baseline-group-size 32",
            "group_size says how to quantize: set quantize to int4",
            "--baseline-group-size says how to quantize: set --baseline-quantize to int4",
        ),
        (
            "eval fidelity t --baseline b --candidate c --candidate-calibration f",
            "leave calibration out.",
            "leave --candidate-calibration out.",
        ),
        ("models", "group_size is 5", "group_size is 5"),
    ],
)  # fmt: skip
def test_settings_are_called_by_the_verbs_options(words: str, message: str, typed: str) -> None:
    options = cli.parser().parse_args(words.split())
    assert as_typed(LoadError(message), options) == typed
    assert as_typed(OSError(message), options) == message


def test_every_setting_that_serve_takes_has_an_option() -> None:
    options = cli.parser().parse_args(["serve"])
    told = {name: as_typed(LoadError(f"{name} is 0"), options) for name in engine_settings(options)}
    assert [name for name in told if not told[name].startswith("--")] == []


def test_what_the_engine_refuses_at_once_is_told_in_options(capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        ("--max-drafts 17", "--max-drafts is 17; it must be at most 16."),
        ("--group-size 32", "--group-size says how to quantize, but not to what: set --quantize to int8, int4 or fp8."),
        (
            "--quantize int8 --group-size 32",
            "--group-size is 32, but int8 has a scale per output channel; leave it out.",
        ),
        (
            "--quantize int8 --calibration x",
            "--calibration is for the method awq; set --quantize-method to awq, or leave",
        ),
        ("--speculate draft", '--speculate is "draft", but there is no draft model: name one with --draft-model.'),
        ("--draft-model x", "there is a draft model (x), but --speculate is 'off': say --speculate draft, or leave"),
        ("--max-running 9 --max-step-tokens 8", "--max-running is 9 and --max-step-tokens is 8; a step must have room"),
    ):
        assert cli.main(["serve", *words.split()]) == cli.FAILED
        assert capsys.readouterr().err.startswith(f"servery serve: {told}")


def test_in_python_settings_keep_their_names(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"^max_drafts is 17; it must be at most 16"):
        EngineConfig(model=tmp_path, max_drafts=17)
