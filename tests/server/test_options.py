from pathlib import Path
from typing import Any

import pytest

from servery import amuse
from servery.engine.config import EngineConfig
from servery.engine.errors import LoadError
from servery.server.option_error import OptionError
from servery.server.options import ServedModel, ServeOptions, served_models


def served(name: str = "m") -> ServedModel:
    return ServedModel(name=name, engine=EngineConfig(model=Path("/nowhere")))


def test_a_model_is_named_after_its_directory_or_by_an_alias(tmp_path: Path) -> None:
    checkpoint = tmp_path / "tiny"
    checkpoint.mkdir()

    models = served_models([str(checkpoint), f"other={checkpoint}"], {"dtype": "float32"})

    assert models == (
        ServedModel(name="tiny", engine=EngineConfig(model=checkpoint, dtype="float32")),
        ServedModel(name="other", engine=EngineConfig(model=checkpoint, dtype="float32")),
    )


def test_a_path_may_contain_an_equals_sign(tmp_path: Path) -> None:
    checkpoint = tmp_path / "step=100"
    checkpoint.mkdir()

    assert served_models([str(checkpoint)], {})[0].name == "step=100"


def test_a_gguf_file_is_named_without_its_ending_and_the_number_of_a_part(tmp_path: Path) -> None:
    files = [tmp_path / "qwen-Q4_K_M.gguf", tmp_path / "big-00002-of-00003.gguf"]
    for file in files:
        file.touch()

    models = served_models([*map(str, files), f"other={files[0]}"], {})

    assert [(model.name, model.engine.model) for model in models] == [
        ("qwen-Q4_K_M", files[0]),
        ("big", files[1]),
        ("other", files[0]),
    ]


def test_the_ending_of_a_gguf_file_may_be_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "Small.GGUF").touch()
    (model,) = served_models([str(tmp_path / "Small.GGUF")], {})
    assert (model.name, model.engine.model) == ("Small", tmp_path / "Small.GGUF")


def test_what_is_no_model_is_refused_by_name() -> None:
    with pytest.raises(OptionError, match="'/no/such/model' is neither a directory"):
        served_models(["/no/such/model"], {})


def test_only_embedded_models_that_are_here_are_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amuse, "available", lambda: ["draft", "small"])
    with pytest.raises(OptionError, match=r"nor an embedded model \(amuse, amuse-draft\)\.$"):
        served_models(["amused"], {})
    with pytest.raises(OptionError, match=r"^amuse-base has no weights here; `make train-amuse` in a clone makes them"):
        served_models(["amuse-base"], {})
    monkeypatch.setattr(amuse, "available", list)
    with pytest.raises(OptionError, match=r"nor an embedded model \(none has weights here\)\.$"):
        served_models(["amused"], {})


def test_settings_outside_their_range_are_the_engines_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="max_model_len"):
        served_models([str(tmp_path)], {"max_model_len": 0})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"models": ()}, "no model to serve"),
        ({"models": (served("a"), served("a"))}, "two models are named 'a'"),
        ({"models": (served("a\n"),)}, "unprintable"),
        ({"port": 65536}, "--port is 65536"),
        ({"max_body_bytes": 0}, "--max-body is 0"),
        ({"request_timeout_s": float("nan")}, "--request-timeout is nan"),
        ({"keep_alive_s": 0.0}, "keep_alive_s is 0"),
        ({"drain_timeout_s": -1.0}, "--drain-timeout is -1.0"),
        ({"api_keys": ("",)}, "API key"),
        ({"api_keys": ("secret\n",)}, "an API key is empty"),
        ({"metrics_keys": ("",)}, "a metrics key is empty"),
        ({"viewer_keys": ("",)}, "a viewer key is empty"),
        ({"admin_keys": ("secret\n",)}, "an admin key is empty or has characters that a header cannot carry"),
        ({"log_level": "loud"}, "--log-level is 'loud'"),
    ],
)
def test_options_outside_their_range_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        ServeOptions(**{"models": (served(),), **changed})  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


def test_keys_are_not_in_the_repr() -> None:
    assert "secret" not in repr(ServeOptions(models=(served(),), api_keys=("secret",), admin_keys=("secret",)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_file_bytes": 1}, "--max-file has no use without --files"),
        ({"max_files_bytes": 10**9}, "--max-files has no use without --files"),
        (
            {"files": Path("f"), "max_files_bytes": 1024},
            "--max-files is 1024 bytes, less than the 209715200 of --max-f",
        ),
    ],
)
def test_bounds_of_files_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        ServeOptions(models=(served(),), **settings)
