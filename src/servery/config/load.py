"""A configuration from its file."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from servery.config.build import Builder
from servery.config.catalog import shipped_catalog
from servery.config.deployment_reader import EngineCheck
from servery.config.errors import ConfigError, Fault
from servery.config.errors import Path as KeyPath
from servery.config.tree import parse_tree
from servery.config.types import Config

Check: TypeAlias = Callable[[Config], Sequence[tuple[KeyPath, str]]]


def nothing_more(config: Config) -> Sequence[tuple[KeyPath, str]]:
    """What is right in itself is right."""
    return ()


def load_config(
    path: Path,
    environment: Mapping[str, str] = os.environ,
    *,
    check_engine: EngineCheck | None = None,
    check: Check = nothing_more,
) -> Config:
    """The configuration in the file at `path`, its `${NAME}`s from `environment`.

    `check_engine` judges the engines of embedded deployments; None: nobody does, the file is only looked into.
    `check` may find keys that cannot be so, with why. Raises `ConfigError` that names every fault with its line and key.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(str(path), [Fault(1, (), f"the file cannot be read: {error.strerror}.")]) from error
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [Fault(1, (), f"the file is not text in UTF-8: {error.reason}.")]) from error
    return parse_config(text, environment, source=path, check_engine=check_engine, check=check)


def parse_config(
    text: str,
    environment: Mapping[str, str],
    *,
    source: Path | None = None,
    check_engine: EngineCheck | None = None,
    check: Check = nothing_more,
) -> Config:
    """The configuration that `text` says; relative paths in it start where `source` lies. Raises `ConfigError`."""
    folder = Path.cwd() if source is None else source.absolute().parent
    tree = parse_tree(text, environment)
    builder = Builder(tree, folder, shipped_catalog(), check_engine)
    config = builder.config(source)
    faults = list(builder.faults)
    if config is not None:
        faults += [Fault(tree.line(path), path, message) for path, message in check(config)]
    if config is None or faults:
        raise ConfigError(str(source or "the configuration"), faults)
    return config
