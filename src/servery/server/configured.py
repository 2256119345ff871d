"""What a configuration file says of the server itself, as the options that the command line would give."""

from collections.abc import Mapping
from typing import Any

from servery.config.types import Config, Kind
from servery.server.configured_engine import engine_of
from servery.server.option_error import OptionError
from servery.server.options import ServeOptions

# What may stand beside --config on the command line: what is of this machine or this run, and no part of what is served.
BESIDE = frozenset(
    {
        "config", "host", "port", "api_key", "api_key_file", "admin_key", "metrics_key", "viewer_key", "log_level", "log_format", "files", "max_file",
        "max_files", "load_on_demand", "workers", "ceilings", "keep_alive", "sleep_level", "sleep_dir", "memory", "run",
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
        "metrics_keys": tuple(key.reveal() for key in config.metrics_keys),
        "viewer_keys": tuple(key.reveal() for key in config.viewer_keys),
        "drain_timeout_s": config.drain_timeout_s,
        "keep_alive_s": config.keep_alive_s,
        "max_body_bytes": config.max_body_bytes,
        "request_timeout_s": max(each.timeouts.total_s for each in config.models.values()),
        "models": tuple(engine_of(each) for each in config.deployments.values() if each.kind is Kind.EMBEDDED),
        "ledger": config.ledger,
        "key_store": config.key_store,
        "log_format": config.telemetry.log_format,
    }
    keys = ("api_keys", "admin_keys", "metrics_keys", "viewer_keys")
    values |= {name: (*values[name], *others.pop(name, ())) for name in keys}
    given = {name: value for name, value in others.items() if value is not None}
    return ServeOptions(config=config, **{**values, **given})
