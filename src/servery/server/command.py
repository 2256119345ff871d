"""`servery serve` on the command line: what is to be served, by a configuration or by models that are named."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servery.config.ledger_place import ledger_place
from servery.config.load import load_config
from servery.config.types import LedgerConfig
from servery.engine_options import engine_settings
from servery.logs import TEXT
from servery.server.adapter_options import AdapterOptions
from servery.server.aliases import read_aliases
from servery.server.configured import check_beside, configured_options
from servery.server.configured_engine import engine_faults
from servery.server.key_options import admin_keys, api_keys, metrics_keys, viewer_keys
from servery.server.option_error import OptionError
from servery.server.options import DEFAULT_MODEL, ServeOptions, model_folder, served_models
from servery.server.residence_options import ResidenceOptions
from servery.telemetry.ceilings import Ceilings, read_ceilings


def serve_options(options: argparse.Namespace, defaults: Mapping[str, Any]) -> ServeOptions:
    """What was asked for; `defaults` are the options of whom nothing is asked. Raises `OptionError`, `ConfigError`."""
    return _named(options) if options.config is None else _configured(options, defaults)


def _configured(options: argparse.Namespace, defaults: Mapping[str, Any]) -> ServeOptions:
    check_beside(vars(options), defaults)
    return configured_options(
        load_config(options.config, check_engine=engine_faults),
        host=None if options.host == defaults["host"] else options.host,
        port=None if options.port == defaults["port"] else options.port,
        api_keys=api_keys(options),
        admin_keys=admin_keys(options),
        metrics_keys=metrics_keys(options),
        viewer_keys=viewer_keys(options),
        files=options.files,
        max_file_bytes=options.max_file,
        max_files_bytes=options.max_files,
        log_level=options.log_level,
        log_format=options.log_format,
        workers=options.workers,
        ceilings=_ceilings(options.ceilings),
        residence=ResidenceOptions.of(options),
    )


def _named(options: argparse.Namespace) -> ServeOptions:
    formats = {"tool_format": options.tool_format, "reasoning_format": options.reasoning_format}
    adapters = AdapterOptions.of(options)
    residence = ResidenceOptions.of(options)
    settings_of_all = {**engine_settings(options), "sleep_dir": residence.sleep_dir}
    place = options.models_dir
    folder = model_folder(place, settings_of_all, formats, adapters) if place else None
    default = None if folder else DEFAULT_MODEL
    models = served_models(options.models, settings_of_all, formats, adapters, default=default)
    return ServeOptions(
        models=models,
        host=options.host,
        port=options.port,
        api_keys=api_keys(options),
        admin_keys=admin_keys(options),
        metrics_keys=metrics_keys(options),
        viewer_keys=viewer_keys(options),
        key_store=options.key_store,
        drain_timeout_s=options.drain_timeout,
        request_timeout_s=options.request_timeout,
        max_body_bytes=options.max_body,
        files=options.files,
        max_file_bytes=options.max_file,
        max_files_bytes=options.max_files,
        log_level=options.log_level,
        log_format=options.log_format or TEXT,
        lora_dir=adapters.folder,
        aliases=read_aliases(options.alias),
        residence=residence,
        models_dir=folder,
        workers=options.workers,
        ceilings=_ceilings(options.ceilings),
        ledger=_ledger(options.ledger),
    )


def _ceilings(given: Path | None) -> Ceilings | None:
    try:
        return None if given is None else read_ceilings(given)
    except ValueError as error:
        raise OptionError(f"--ceilings {error}") from None


def _ledger(given: str | None) -> LedgerConfig | None:
    try:
        return None if given is None else ledger_place(given, Path.cwd())
    except ValueError as error:
        raise OptionError(f"--ledger: {error}.") from error
