"""What a configuration file says of an engine is judged by the options of the command line, and nothing is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

from servery.cli import main
from servery.config.types import DeploymentConfig, Kind, Tier
from servery.server.configured_engine import engine_faults, engine_of


def deployment(name: str, **engine: object) -> DeploymentConfig:
    return DeploymentConfig(name=name, kind=Kind.EMBEDDED, tier=Tier.EMBEDDED, model="amuse-draft", engine=engine)


@pytest.mark.parametrize(
    ("engine", "key", "told"),
    [
        ({"max_runing": 3}, "max_runing", "an engine has no such setting. Did you mean 'max_running'?"),
        ({"kv_memory_bytes": 3}, "kv_memory_bytes", "an engine has no such setting. Did you mean 'kv_memory'?"),
        ({"zzz": 3}, "zzz", "an engine has no such setting. `servery serve --help` lists them all."),
        ({"max_running": -3}, "max_running", "'-3' is not a whole number of at least 1."),
        ({"max_running": True}, "max_running", "expected one argument."),
        ({"max_running": [3]}, "max_running", "this must be one number or one word."),
        ({"no_prefix_cache": 1}, "no_prefix_cache", "1 means nothing here; write true, or leave it out."),
    ],
)
def test_a_setting_that_cannot_be_is_told_of(engine: dict[str, object], key: str, told: str) -> None:
    assert list(engine_faults("amuse-draft", engine)) == [(("engine", key), told)]


def test_settings_that_exclude_each_other_are_told_of_where_they_stand_together() -> None:
    ((path, told),) = engine_faults("amuse-draft", {"max_running": 300})
    assert path == ("engine",)
    assert told.startswith("max_running is 300 and max_step_tokens is 256;")


@pytest.mark.parametrize("given", ["no-such-model", "/no/such/folder", "{tmp}/none.gguf", "{tmp}"])
def test_what_is_no_model_is_told_of(tmp_path: Path, given: str) -> None:
    given = given.format(tmp=tmp_path)
    ((path, told),) = engine_faults(given, {})
    assert path == ("model",)
    expected = "is a directory without a checkpoint" if given == str(tmp_path) else "is neither a directory"
    assert told.startswith(f"{given!r} {expected}")


@pytest.mark.parametrize("made", ["folder/config.json", "model.gguf", "folder/MODEL.GGUF"])
def test_a_checkpoint_and_a_gguf_file_are_models(tmp_path: Path, made: str) -> None:
    file = tmp_path / made
    file.parent.mkdir(exist_ok=True)
    file.touch()
    assert list(engine_faults(str(file if made == "model.gguf" else file.parent), {"max-running": 3})) == []


@pytest.mark.parametrize("name", ["here", "mine/amuse", "a=b"])
def test_an_engine_is_called_as_its_deployment(name: str) -> None:
    made = engine_of(deployment(name, max_running=3, no_prefix_cache=False))
    assert (made.name, made.engine.max_running, made.engine.prefix_cache) == (name, 3, True)


def test_check_tells_of_engines_with_line_and_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "servery.yaml"
    file.write_text(
        "deployments:\n  a:\n    kind: embedded\n    model: /no/such\n    engine:\n      max_runing: 3\n"
        "models:\n  m: {deployments: [a]}\n"
    )
    assert main(["config", "check", str(file)]) == 1
    told = capsys.readouterr().err.splitlines()
    assert [line.removeprefix(f"{file}: ").partition(": ")[0::2] for line in told] == [
        ("line 4", told[0].partition("line 4: ")[2]),
        ("line 6", "deployments.a.engine.max_runing: an engine has no such setting. Did you mean 'max_running'?"),
    ]
    assert told[0].partition("line 4: ")[2].startswith("deployments.a.model: '/no/such' is neither a directory")


def test_checking_loads_no_torch(tmp_path: Path) -> None:
    file = tmp_path / "servery.yaml"
    file.write_text("deployments: {a: {kind: embedded, model: amuse-draft}}\nmodels: {m: {deployments: [a]}}\n")
    program = "import sys; from servery.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program, "config", "check", str(file)], check=True)
