"""`servery keys` on the command line: make, list, rotate and revoke keys. A server that runs takes up every change."""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from servery.config.access import limits_in, tiers_in
from servery.config.load import load_config
from servery.config.types import LedgerConfig, Tier
from servery.config.units import parse_dollars, parse_duration
from servery.server.key_store import KeyStore, KeyStoreError, KeyTerms, NoSuchKey, StoredKey
from servery.server.key_terms import one_line, parse_expiry, parse_label, parse_overlap
from servery.server.key_watch import store_path
from servery.server.keys_api import moment, shown
from servery.server.option_error import OptionError
from servery.telemetry.ledger.audit import Act, AuditLog

T = TypeVar("T")


def _dollars(text: str) -> str:
    return _typed(parse_dollars, text)


def _duration(text: str) -> str:
    return _typed(parse_duration, text)


def _typed(parse: Callable[[object], object], text: str) -> str:
    """The text, if `parse` can read it: what is read later is complained of where it is typed."""
    try:
        parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


_LIMITS = (
    ("requests-per-minute", int, "N", "requests per minute"),
    ("input-tokens-per-minute", int, "N", "tokens of prompts per minute"),
    ("output-tokens-per-minute", int, "N", "generated tokens per minute"),
    ("concurrency", int, "N", "requests under way at a time"),
    ("dollars-per-day", _dollars, "USD", "money per day of UTC"),
    ("dollars-per-month", _dollars, "USD", "money per month of UTC"),
    ("burst", _duration, "TIME", "for how long rates save up what is not used: 60s"),
)


def create(options: argparse.Namespace) -> int:
    """Make a key, and print its secret, which is shown this once: only its SHA-256 is kept.

    Example:
      servery keys create --store servery-keys.sqlite --name "mobile app" --owner apps --model chat
      servery keys create --config servery.yaml --requests-per-minute 600 --dollars-per-month 50 --expires 2027-01-31
    """
    given = {name.replace("-", "_"): getattr(options, name.replace("-", "_")) for name, *_ in _LIMITS}
    limits = {name: value for name, value in given.items() if value is not None}
    terms = KeyTerms(
        name=_read("--name", parse_label, options.name or ""),
        owner=_read("--owner", parse_label, options.owner or ""),
        models=_models(options),
        tiers=frozenset(tiers_in(options.tier)) or None,
        expires_s=None if options.expires is None else _read("--expires", _expiry, options.expires),
        limits=_read("limits", limits_in, limits),
    )
    with _store(options) as store:
        key, secret = store.create(terms)
    _record(options, "keys create", key)
    _tell(options, key, secret)
    return 0


def list(options: argparse.Namespace) -> int:  # noqa: A001 (a verb is called as its function)
    """List the keys: who has them, what they may do, how their secrets begin. A secret itself is nowhere.

    Example:
      servery keys list --store servery-keys.sqlite
      servery keys list --config servery.yaml --json
    """
    with _store(options) as store:
        keys = store.all()
    if options.json:
        print(json.dumps([shown(key, time.time()) for key in keys], indent=2))
        return 0
    rows = [_HEAD, *(_row(key) for key in keys)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    for row in rows:
        print("  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def rotate(options: argparse.Namespace) -> int:
    """Give a key a new secret. The old one goes on for a while, so that who has it can change over.

    Its id, its limits and what it has used of them stay.

    Example:
      servery keys rotate key_2f6b1c9e8d7a5b40 --store servery-keys.sqlite --overlap 48h
    """
    overlap_s = _read("--overlap", parse_overlap, options.overlap)
    with _store(options) as store:
        key, secret = store.rotate(options.key, overlap_s)
    _record(options, "keys rotate", key)
    _tell(options, key, secret)
    return 0


def revoke(options: argparse.Namespace) -> int:
    """End a key at once, with all of its secrets.

    Example:
      servery keys revoke key_2f6b1c9e8d7a5b40 --store servery-keys.sqlite
    """
    with _store(options) as store:
        key = store.revoke(options.key)
    _record(options, "keys revoke", key)
    print(f"{key.id} is revoked. A server that runs refuses it within about a second.")
    return 0


def add_store(verb: argparse.ArgumentParser) -> None:
    """Add the options that say where the keys are."""
    place = verb.add_mutually_exclusive_group()
    place.add_argument("--store", type=Path, metavar="FILE", help="the SQLite file with the keys")
    place.add_argument("--config", type=Path, metavar="FILE", help="the server's configuration, which names that file")


def add_create(verb: argparse.ArgumentParser) -> None:
    """Add the options of `servery keys create`."""
    add_store(verb)
    add = verb.add_argument
    add("--name", metavar="TEXT", help="what the key is for")
    add("--owner", metavar="NAME", help="whose it is; keys of one owner share its limits, files and caches")
    add(
        "--model", action="append", default=[], metavar="NAME", help="a model that it may ask for, else all; repeatable"
    )
    add(
        "--tier", action="append", default=[], choices=[tier.value for tier in Tier],
        help="a tier that may answer it, else all; repeatable",
    )  # fmt: skip
    add("--expires", metavar="WHEN", help="when it ends: 2027-01-31 (UTC), or after a time: 720h")
    for name, kind, metavar, text in _LIMITS:
        add(f"--{name}", type=kind, metavar=metavar, help=text)
    _add_json(verb)


def add_list(verb: argparse.ArgumentParser) -> None:
    """Add the options of `servery keys list`."""
    add_store(verb)
    _add_json(verb)


def add_rotate(verb: argparse.ArgumentParser) -> None:
    """Add the options of `servery keys rotate`."""
    add_revoke(verb)
    verb.add_argument("--overlap", default="24h", metavar="TIME", help="how long the old secret goes on; 0: not at all")
    _add_json(verb)


def add_revoke(verb: argparse.ArgumentParser) -> None:
    """Add the options of `servery keys revoke`."""
    verb.add_argument("key", metavar="ID", help="the key's id, from `servery keys list`")
    add_store(verb)


def _add_json(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="print JSON")


_HEAD = ("ID", "STATE", "SECRETS", "OWNER", "NAME", "MODELS", "TIERS", "EXPIRES", "LIMITS")


def _row(key: StoredKey) -> tuple[str, ...]:
    told = shown(key, time.time())
    limits = ", ".join(f"{name} {value}" for name, value in told["limits"].items())
    return (
        key.id, told["state"], " ".join(f"{each.shown}..." for each in key.secrets) or "-", one_line(key.terms.owner) or "-",
        one_line(key.terms.name) or "-", one_line(",".join(told["models"] or ["all"])), ",".join(told["tiers"] or ["all"]),
        told["expires"] or "never", limits or "none",
    )  # fmt: skip


def _record(options: argparse.Namespace, action: str, key: StoredKey) -> None:
    """Write down what was done: where the configuration keeps a ledger, else beside the keys."""
    place = None if options.config is None else load_config(options.config).ledger
    if place is None:
        store = _place(options)
        place = LedgerConfig(path=store.with_name(f"{store.stem}-audit{store.suffix}"))
    act = Act(who=f"uid {os.getuid()}", action=action, subject=key.id, source="command line")
    if not AuditLog(place).record(act):
        print(f"servery: the audit log {place.shown} has not taken this; it was done all the same.", file=sys.stderr)


def _tell(options: argparse.Namespace, key: StoredKey, secret: str) -> None:
    if options.json:
        print(json.dumps({**shown(key, time.time()), "key": secret}, indent=2))
        return
    print(secret)
    ends = [f"{each.shown}... ends {moment(each.expires_s)}" for each in key.secrets if each.expires_s is not None]
    text = "; ".join([f"{key.id}: keep the secret now, it is not shown again", *ends])
    print(f"{text}.", file=sys.stderr)


def _place(options: argparse.Namespace) -> Path:
    """The file with the keys; raises `OptionError`."""
    if options.config is None:
        if options.store is None:
            raise OptionError("say where the keys are: --store FILE, or --config FILE, a configuration that names it.")
        return Path(options.store)
    config = load_config(options.config)
    path = store_path(config.key_store, config.ledger)
    if path is None:
        raise OptionError(f"{options.config} names no key_store and no ledger, beside which keys would be; add one.")
    return path


@contextlib.contextmanager
def _store(options: argparse.Namespace) -> Iterator[KeyStore]:
    path = _place(options)
    is_made = options.run is create
    if not is_made and not path.is_file():
        raise OptionError(f"there are no keys in {path}; `servery keys create` makes the first.")
    try:
        with contextlib.closing(KeyStore(path)) as store:
            yield store
    except (KeyStoreError, NoSuchKey) as error:
        raise OptionError(str(error)) from error


def _models(options: argparse.Namespace) -> frozenset[str] | None:
    """The models that were named; raises `OptionError` for one that the configuration does not have, if there is one."""
    served = options.model if options.config is None else load_config(options.config).models
    for model in options.model:
        if model not in served:
            known = ", ".join(sorted(served))
            raise OptionError(
                f"--model: there is no model '{one_line(model[:100])}' in {options.config}; it has: {known}."
            )
    return frozenset(options.model) or None


def _expiry(given: str) -> float:
    return parse_expiry(given, time.time())


def _read(name: str, parse: Callable[[Any], T], given: Any) -> T:
    try:
        return parse(given)
    except ValueError as error:
        raise OptionError(f"{name}: {error}.") from None
