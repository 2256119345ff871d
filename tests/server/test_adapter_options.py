"""--lora and its neighbours: which model an adapter belongs to, and what is wrong with one that has none."""

from pathlib import Path

import pytest

from servery import cli
from servery.engine.adapter_source import AdapterSource
from servery.engine.errors import LoadError
from servery.server.adapter_options import AdapterOptions
from servery.server.option_error import OptionError
from servery.server.options import ServeOptions, served_models


def test_adapters_go_to_the_model_that_they_name(tmp_path: Path) -> None:
    options = AdapterOptions(named=(f"a:x={tmp_path}", f"b:y={tmp_path}", f"a:z={tmp_path}"), max_rank=8)
    assert options.settings(["a", "b"]) == {
        "a": {
            "adapters": (AdapterSource("x", tmp_path), AdapterSource("z", tmp_path)),
            "max_loras": None,
            "max_lora_rank": 8,
        },
        "b": {"adapters": (AdapterSource("y", tmp_path),), "max_loras": None, "max_lora_rank": 8},
    }


@pytest.mark.parametrize(
    ("options", "places"),
    [({}, None), ({"folder": Path("x")}, 8), ({"max_loras": 3}, 3), ({"folder": Path("x"), "max_loras": 3}, 3)],
    ids=str,
)
def test_places_are_reserved_only_where_adapters_can_come(options: dict[str, object], places: int | None) -> None:
    assert AdapterOptions(**options).settings(["a"])["a"]["max_loras"] == places  # type: ignore[arg-type]


def test_the_only_model_needs_no_name(tmp_path: Path) -> None:
    for argument in (f"x={tmp_path}", f"a:7b:x={tmp_path}"):
        settings = AdapterOptions(named=(argument,)).settings(["a:7b"])
        assert settings["a:7b"]["adapters"] == (AdapterSource("x", tmp_path),)


@pytest.mark.parametrize(
    ("argument", "models", "message"),
    [
        ("x", ["a"], "--lora is 'x'; it must be NAME=DIRECTORY, or MODEL:NAME=DIRECTORY"),
        ("x=here", [], "--lora x=here: no model is named that it could belong to; write servery serve MODEL"),
        ("=here", ["a"], "it must be NAME=DIRECTORY"),
        ("x=", ["a"], "it must be NAME=DIRECTORY"),
        ("x=here", ["a", "b"], "names no model and 2 are served; write a:x=here"),
        ("amus:x=here", ["amuse"], "no model 'amus' is served, only 'amuse'. Did you mean 'amuse'?"),
        ("x=nowhere", ["a"], "'nowhere' is not a directory"),
        ("a:7b=.", ["a", "a:7b"], "a model is named a:7b already"),
    ],
)
def test_an_adapter_without_a_place_is_refused(argument: str, models: list[str], message: str) -> None:
    with pytest.raises(OptionError) as refused:
        AdapterOptions(named=(argument,)).settings(models)
    assert message in str(refused.value)


def test_a_name_that_cannot_be_asked_for_is_refused() -> None:
    with pytest.raises(LoadError, match="the adapter's name '-x' cannot be used"):
        AdapterOptions(named=("-x=.",)).settings(["a"])


def test_loading_at_run_time_needs_a_folder_and_somebody_who_may(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    models = served_models([str(tmp_path / "m")], {})
    with pytest.raises(OptionError, match=r"--lora-dir is '.*nowhere', which is not a directory"):
        ServeOptions(models=models, lora_dir=tmp_path / "nowhere")
    for options in ({"api_keys": ("k",)}, {"host": "0.0.0.0"}):
        with pytest.raises(
            OptionError, match="lets who has an admin key load adapters, and there is none; add --admin-key"
        ):
            ServeOptions(models=models, lora_dir=tmp_path, **options)  # type: ignore[arg-type]
        assert ServeOptions(models=models, lora_dir=tmp_path, admin_keys=("k",), **options).lora_dir == tmp_path  # type: ignore[arg-type]
    assert ServeOptions(models=models, lora_dir=tmp_path).lora_dir == tmp_path


def test_the_command_line_says_what_is_wrong_with_an_adapter(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "amuse", "--lora", "sql"]) == cli.USAGE
    assert "servery serve: --lora is 'sql'; it must be NAME=DIRECTORY" in capsys.readouterr().err
    assert cli.main(["serve", "amuse", "--lora-dir", ".", "--api-key", "k"]) == cli.USAGE
    assert "add --admin-key, or leave it out" in capsys.readouterr().err
