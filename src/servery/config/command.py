"""`servery config` on the command line: whether a file is right, what may be in one, and one to begin with."""

import argparse
import importlib.resources
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from servery.config.catalog import shipped_catalog
from servery.config.deployment_reader import EngineCheck
from servery.config.errors import ConfigError
from servery.config.load import load_config
from servery.config.sections import json_schema
from servery.config.types import Config, DeploymentConfig, Price

_MICRO = 10**6


def check(options: argparse.Namespace) -> int:
    """Say whether a configuration is right: what it has, or every fault with its line and key.

    Nothing is started and no address is asked. The exit code is 1 when something is wrong.

    Example:
      servery config example > servery.yaml
      servery config check servery.yaml
    """
    try:
        config = load_config(options.file, check_engine=options.check_engine)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{options.file} is right: {_counted(config)}.")
    for model in config.models.values():
        tiers = " | ".join(", ".join(_shown(config.deployments[name]) for name in tier) for tier in model.tiers)
        print(f"  {model.name}: {tiers}; {model.place.value}")
    for line in _origins(config.deployments.values()):
        print(f"  {line}")
    return 0


def schema(options: argparse.Namespace) -> int:
    """Write the JSON Schema of the configuration file, by which editors complete and check it.

    Example:
      servery config schema > servery.schema.json
    """
    print(json.dumps(json_schema(), indent=2))
    return 0


def example(options: argparse.Namespace) -> int:
    """Write a configuration that has every section, with a comment on each key.

    Example:
      servery config example > servery.yaml
    """
    print((importlib.resources.files("servery.config") / "example.yaml").read_text(), end="")
    return 0


def add_check(verb: argparse.ArgumentParser, check_engine: EngineCheck) -> None:
    """Add the options of `servery config check`, which has `check_engine` judge embedded deployments."""
    verb.set_defaults(check_engine=check_engine)
    verb.add_argument("file", type=Path, metavar="FILE", help="the YAML file")


def _counted(config: Config) -> str:
    return f"{_number(len(config.models), 'model')}, {_number(len(config.deployments), 'deployment')}"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _shown(deployment: DeploymentConfig) -> str:
    return f"{deployment.name} ({deployment.kind.value}, {_price(deployment.price)})"


def _origins(deployments: Iterable[DeploymentConfig]) -> Iterator[str]:
    """Where prices come from that the file does not have."""
    catalog = shipped_catalog()
    of: dict[str, list[str]] = {}
    for each in deployments:
        source = catalog.source(each.kind, each.model)
        if source is not None and catalog.price(each.kind, each.model) == each.price:
            of.setdefault(str(source), []).append(each.name)
    for said, names in of.items():
        yield f"price of {', '.join(names)}: {said}"


def _price(price: Price) -> str:
    if price == Price():
        return "free"
    parts = [f"${price.per_hour / _MICRO:g}/h"] if price.per_hour else []
    if not price.is_fixed:
        parts.append(f"${price.input_per_mtok / _MICRO:g}/${price.output_per_mtok / _MICRO:g} per million tokens")
    return " and ".join(parts)
