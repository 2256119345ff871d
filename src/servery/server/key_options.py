"""The keys that a server accepts, from where they are kept: the command line, a file, the environment."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from servery.server.option_error import OptionError

KEY_VARIABLE = "SERVERY_API_KEY"
ADMIN_KEY_VARIABLE = "SERVERY_ADMIN_KEY"
METRICS_KEY_VARIABLE = "SERVERY_METRICS_KEY"
VIEWER_KEY_VARIABLE = "SERVERY_VIEWER_KEY"


def add_key_options(add: Callable[..., argparse.Action]) -> None:
    """Add the options that name keys."""
    add(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help=f"accept this key; repeatable. Other users of this machine can see it here, unlike in ${KEY_VARIABLE} "
        "(several: separated by commas) or a file",
    )
    add(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="accept the keys in this file, one per line; # begins a comment line",
    )
    add(
        "--key-store",
        type=Path,
        metavar="FILE",
        help="accept the keys that `servery keys create` makes in this SQLite file, as they are at any moment",
    )
    add(
        "--admin-key",
        action="append",
        default=[],
        metavar="KEY",
        help="let who has this key load, unload and put to sleep models, and load adapters; repeatable. "
        f"Or ${ADMIN_KEY_VARIABLE}, which other users of this machine cannot see",
    )
    add(
        "--metrics-key",
        action="append",
        default=[],
        metavar="KEY",
        help="let who has this key read /metrics, and nothing else, as Prometheus does; repeatable. An admin key does as "
        f"well, an API key does not. Or ${METRICS_KEY_VARIABLE}",
    )
    add(
        "--viewer-key",
        action="append",
        default=[],
        metavar="KEY",
        help=f"let who has this key look at the dashboard, and do nothing; repeatable. Or ${VIEWER_KEY_VARIABLE}",
    )


def api_keys(options: argparse.Namespace) -> tuple[str, ...]:
    """The keys of those who ask; raises `OptionError` for a file that has none."""
    listed = _keys_in(options.api_key_file) if options.api_key_file else []
    return (*options.api_key, *listed, *_taken_keys(KEY_VARIABLE))


def admin_keys(options: argparse.Namespace) -> tuple[str, ...]:
    """The keys of those who may change what is served."""
    return (*options.admin_key, *_taken_keys(ADMIN_KEY_VARIABLE))


def metrics_keys(options: argparse.Namespace) -> tuple[str, ...]:
    """The keys of those who may read the metrics."""
    return (*options.metrics_key, *_taken_keys(METRICS_KEY_VARIABLE))


def viewer_keys(options: argparse.Namespace) -> tuple[str, ...]:
    """The keys of those who may look at the dashboard alone."""
    return (*options.viewer_key, *_taken_keys(VIEWER_KEY_VARIABLE))


def keys_in_environment(variable: str) -> list[str]:
    """The keys in a variable, which are separated by commas."""
    return [key.strip() for key in os.environ.get(variable, "").split(",") if key.strip()]


def _taken_keys(variable: str) -> list[str]:
    """The keys in the environment, out of which they are taken: the engines inherit it, and need no key."""
    keys, given = keys_in_environment(variable), os.environ.pop(variable, "")
    if given and not keys:
        raise OptionError(f"${variable} is set and has no key in it; unset it to ask nobody for one.")
    return keys


def _keys_in(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise OptionError(f"the keys in {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise OptionError(f"the keys in {path} cannot be read: it is not UTF-8.") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise OptionError(f"{path} has no key; write one per line, or leave --api-key-file out to serve anybody.")
    return keys
