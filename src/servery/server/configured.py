"""What a configuration file says of the server itself, as the options that the command line would give."""

import argparse
from collections.abc import Mapping
from typing import Any, NoReturn

from servery.config.types import Config, DeploymentConfig, Kind
from servery.engine_options import add_engine_options, engine_settings
from servery.server.option_error import OptionError
from servery.server.options import ServedModel, ServeOptions, served_models

# What may stand beside --config on the command line: what is of this machine or this run, and no part of what is served.
BESIDE = frozenset(
    {
        "config", "host", "port", "api_key", "api_key_file", "admin_key", "log_level", "files", "max_file", "max_files",
        "load_on_demand", "workers", "keep_alive", "sleep_level", "sleep_dir", "memory", "run",
    }
)  # fmt: skip


def check_beside(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise `OptionError` for an option whose place is the file."""
    for name, value in given.items():
        if name not in BESIDE and value != defaults.get(name):
            option = "MODEL" if name == "models" else f"--{name.replace('_', '-')}"
            raise OptionError(f"{option} cannot be given beside --config; say it in the file.")


def configured_options(config: Config, **others: Any) -> ServeOptions:
    """The server's options by the file; `others` are fields of `ServeOptions` that count instead, None for none.

    Raises `OptionError` for a deployment whose engine cannot be made so.
    """
    values: dict[str, Any] = {
        "host": config.host,
        "port": config.port,
        "api_keys": tuple(key.reveal() for key in config.api_keys),
        "admin_keys": tuple(key.reveal() for key in config.admin_keys),
        "drain_timeout_s": config.drain_timeout_s,
        "keep_alive_s": config.keep_alive_s,
        "max_body_bytes": config.max_body_bytes,
        "request_timeout_s": max(each.timeouts.total_s for each in config.models.values()),
        "models": tuple(engine_of(each) for each in config.deployments.values() if each.kind is Kind.EMBEDDED),
        "ledger": config.ledger,
        "key_store": config.key_store,
    }
    keys = ("api_keys", "admin_keys")
    values |= {name: (*values[name], *others.pop(name, ())) for name in keys}
    given = {name: value for name, value in others.items() if value is not None}
    return ServeOptions(config=config, **{**values, **given})


def engine_of(deployment: DeploymentConfig) -> ServedModel:
    """The engine of an embedded deployment, under its name; raises `OptionError` that names the deployment."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.deployment = deployment.name
    add_engine_options(parser)
    arguments: list[str] = []
    for name, value in deployment.engine.items():
        option = f"--{name.replace('_', '-')}"
        arguments += [option] if value is True else [f"{option}={value}"]
    settings = engine_settings(parser.parse_args(arguments))
    try:
        (model,) = served_models([f"{deployment.name}={deployment.model}"], settings)
    except OptionError as error:
        raise OptionError(f"deployment {deployment.name}: {error}") from error
    return model


class _Parser(argparse.ArgumentParser):
    """Reads the settings of an engine as the command line does; what is wrong is the file's fault."""

    deployment = ""

    def error(self, message: str) -> NoReturn:
        raise OptionError(f"deployment {self.deployment}: engine: {message}.")
