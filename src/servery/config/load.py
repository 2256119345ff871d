"""A configuration from its file."""

import os
from collections.abc import Mapping
from pathlib import Path

from servery.config.build import Builder
from servery.config.catalog import shipped_catalog
from servery.config.deployment_reader import EngineCheck
from servery.config.errors import ConfigError, Fault
from servery.config.tree import parse_tree
from servery.config.types import Config


def load_config(
    path: Path, environment: Mapping[str, str] = os.environ, *, check_engine: EngineCheck | None = None
) -> Config:
    """The configuration in the file at `path`, its `${NAME}`s from `environment`.

    `check_engine` judges the engines of embedded deployments; None: nobody does, the file is only looked into.
    Raises `ConfigError` that names every fault with its line and key.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(str(path), [Fault(1, (), f"the file cannot be read: {error.strerror}.")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [Fault(1, (), f"the file is not text in UTF-8: {error.reason}.")]) from error
    return parse_config(text, environment, source=path, check_engine=check_engine)


def parse_config(
    text: str,
    environment: Mapping[str, str],
    *,
    source: Path | None = None,
    check_engine: EngineCheck | None = None,
) -> Config:
    """The configuration that `text` says; relative paths in it start where `source` lies. Raises `ConfigError`."""
    folder = Path.cwd() if source is None else source.absolute().parent
    builder = Builder(parse_tree(text, environment), folder, shipped_catalog(), check_engine)
    config = builder.config(source)
    if config is None or builder.faults:
        raise ConfigError(str(source or "the configuration"), builder.faults)
    return config
