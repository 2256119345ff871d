"""`/v1/keys`: make, list, rotate and revoke keys. For admins alone."""

import asyncio
import datetime
import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from servery.config.access import limits_in, limits_shown, tiers_in
from servery.server.key_store import KeyStore, KeyStoreError, KeyTerms, NoSuchKey, StoredKey
from servery.server.key_terms import parse_expiry, parse_label, parse_overlap
from servery.server.key_watch import KeyWatch
from servery.server.service import Exchange, Service
from servery.wire.body import decode
from servery.wire.errors import ApiError, invalid

T = TypeVar("T")


class _Create(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    name: str = ""
    owner: str = ""
    models: list[str] | None = None
    tiers: list[str] | None = None
    expires: str | None = None
    limits: dict[str, Any] = {}


class _Rotate(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    overlap: str = "24h"


_CREATE, _ROTATE = msgspec.json.Decoder(_Create), msgspec.json.Decoder(_Rotate)


async def listed(service: Service, exchange: Exchange) -> None:
    """Every key: what it may do, the beginnings of its secrets, never a secret."""
    _, store = _watched(service)
    keys = await _in_store(store.all)
    await _reply(exchange, {"object": "list", "data": [shown(key, time.time()) for key in keys]})


async def create(service: Service, exchange: Exchange) -> None:
    """A new key; the answer is the only place where its secret can be read."""
    watch, store = _watched(service)
    terms = _terms(service, decode(await exchange.body(service.options), _CREATE))
    key, secret = await _in_store(lambda: store.create(terms))
    exchange.subject = key.id
    watch.take()
    await _reply(exchange, {**shown(key, time.time()), "key": secret})


async def retrieve(service: Service, exchange: Exchange) -> None:
    """One key."""
    _, store = _watched(service)
    key = await _in_store(lambda: store.get(exchange.arguments["id"]))
    await _reply(exchange, shown(key, time.time()))


async def rotate(service: Service, exchange: Exchange) -> None:
    """A new secret for a key; the old one goes on for the `overlap` of the body, a day if it says none."""
    watch, store = _watched(service)
    body = await exchange.body(service.options)
    overlap_s = _read("overlap", parse_overlap, decode(body or b"{}", _ROTATE).overlap)
    key, secret = await _in_store(lambda: store.rotate(exchange.arguments["id"], overlap_s))
    watch.take()
    await _reply(exchange, {**shown(key, time.time()), "key": secret})


async def revoke(service: Service, exchange: Exchange) -> None:
    """End a key at once."""
    watch, store = _watched(service)
    key = await _in_store(lambda: store.revoke(exchange.arguments["id"]))
    watch.take()
    await _reply(exchange, shown(key, time.time()))


def shown(key: StoredKey, now_s: float) -> dict[str, Any]:
    """A key as admins see it; without its secrets and their digests."""
    terms = key.terms
    return {
        "id": key.id,
        "object": "key",
        "name": terms.name,
        "owner": terms.owner,
        "state": key.state(now_s),
        "models": None if terms.models is None else sorted(terms.models),
        "tiers": None if terms.tiers is None else sorted(tier.value for tier in terms.tiers),
        "limits": limits_shown(terms.limits),
        "created": moment(key.created_s),
        "expires": moment(terms.expires_s),
        "revoked": moment(key.revoked_s),
        "secrets": [{"begins": each.shown, "expires": moment(each.expires_s)} for each in key.secrets],
    }


def moment(at_s: float | None) -> str | None:
    """A time as it can be written for `expires`."""
    if at_s is None:
        return None
    return f"{datetime.datetime.fromtimestamp(at_s, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"


def _terms(service: Service, asked: _Create) -> KeyTerms:
    served = service.gateway.fleet.models
    for model in asked.models or []:
        if model not in served:
            raise invalid(f"There is no model '{model[:100]}'. Served here: {', '.join(sorted(served))}.", "models")
    return KeyTerms(
        name=_read("name", parse_label, asked.name),
        owner=_read("owner", parse_label, asked.owner),
        models=None if asked.models is None else frozenset(asked.models),
        tiers=None if asked.tiers is None else _read("tiers", tiers_in, asked.tiers),
        expires_s=None if asked.expires is None else _read("expires", _expiry, asked.expires),
        limits=_read("limits", limits_in, asked.limits),
    )


def _expiry(given: str) -> float:
    return parse_expiry(given, time.time())


def _read(name: str, parse: Callable[[Any], T], given: Any) -> T:
    try:
        return parse(given)
    except ValueError as error:
        raise invalid(f"'{name}': {error}.", name) from None


def _watched(service: Service) -> tuple[KeyWatch, KeyStore]:
    watch = service.key_watch
    if watch is None or watch.store is None:
        message = "This server has no store of keys; name one with --key-store FILE, or key_store in the configuration."
        raise ApiError(404, message, code="no_key_store")
    return watch, watch.store


async def _in_store(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except NoSuchKey as error:
        text = str(error)
        raise ApiError(404, text[0].upper() + text[1:], code="key_not_found") from None
    except KeyStoreError as error:
        raise ApiError(
            503, "The store of keys cannot be used now.", kind="server_error", code="key_store_unavailable"
        ) from error


async def _reply(exchange: Exchange, body: dict[str, Any]) -> None:
    await exchange.reply.whole(msgspec.json.encode(body), headers=(("cache-control", "no-store"),))
