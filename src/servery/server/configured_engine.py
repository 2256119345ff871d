"""The engine of an embedded deployment: what a configuration file says of it, by the options of the command line."""

import argparse
import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from servery.config.errors import Path as KeyPath
from servery.config.types import DeploymentConfig
from servery.config.validation import did_you_mean
from servery.engine.config import EngineConfig
from servery.engine.errors import LoadError
from servery.engine.gguf.files import SUFFIX, find_gguf
from servery.engine_options import add_engine_options, engine_settings
from servery.server.model_folder import CONFIG_FILE
from servery.server.option_error import OptionError
from servery.server.options import ServedModel, served_models

_BLAMED = re.compile(r"argument --[a-z-]+: ")


def engine_of(deployment: DeploymentConfig) -> ServedModel:
    """The engine of an embedded deployment, under its name; raises `OptionError` that names the deployment."""
    try:
        (model,) = served_models([deployment.model], _settings(deployment.engine))
    except (OptionError, LoadError) as error:
        raise OptionError(f"deployment {deployment.name}: {error}") from error
    return dataclasses.replace(model, name=deployment.name)


def engine_faults(model: str, engine: Mapping[str, object]) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong with an embedded deployment's `model` and `engine`: the key within its section, and what is told.

    Nothing is loaded.
    """
    told = {name: found for name, value in engine.items() if (found := _told_of(name, value)) is not None}
    for name, message in told.items():
        yield ("engine", name), message
    try:
        if not told:
            EngineConfig(model=Path(model), **_settings(engine))
    except LoadError as error:
        yield ("engine",), str(error)
    try:
        _check_model(model)
    except (OptionError, LoadError) as error:
        yield ("model",), str(error)


def _check_model(given: str) -> None:
    """Raise `OptionError` or `LoadError` for what is no model."""
    (model,) = served_models([given], {})
    path = model.engine.model
    if path.is_dir() and not (path / CONFIG_FILE).is_file() and find_gguf(path) is None:
        raise OptionError(
            f"{given!r} is a directory without a checkpoint: it has no {CONFIG_FILE} and no {SUFFIX} file."
        )


def _told_of(name: str, value: object) -> str | None:
    """What is wrong with one setting, None if nothing is."""
    parser = _Parser()
    action = parser.settings.get(_setting(name))
    if action is None:
        meant = did_you_mean(name, parser.settings) or " `servery serve --help` lists them all."
        return f"an engine has no such setting.{meant}"
    if action.nargs == 0 and not isinstance(value, bool):
        return f"{value!r} means nothing here; write true, or leave it out."
    if not isinstance(value, bool | int | float | str):
        return "this must be one number or one word."
    try:
        parser.parse_args(_arguments({name: value}))
    except OptionError as error:
        return str(error)
    return None


def _settings(engine: Mapping[str, object]) -> dict[str, Any]:
    """The fields of an `EngineConfig`; raises `OptionError`."""
    return engine_settings(_Parser().parse_args(_arguments(engine)))


def _arguments(engine: Mapping[str, object]) -> list[str]:
    """What one would type; a switch is there or not."""
    return [
        f"--{_setting(name).replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in engine.items()
        if value is not False
    ]


def _setting(name: str) -> str:
    return name.replace("-", "_")


class _Parser(argparse.ArgumentParser):
    """Reads the settings of an engine as the command line does; what is wrong is the file's fault."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        add_engine_options(self)

    @property
    def settings(self) -> Mapping[str, argparse.Action]:
        """Every option by its name in a file."""
        return {_setting(option[2:]): action for action in self._actions for option in action.option_strings}

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print before it exits."""
        raise OptionError(_BLAMED.sub("", message, count=1) + ".")
