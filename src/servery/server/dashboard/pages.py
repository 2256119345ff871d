"""`/dashboard` and everything below it."""

import contextlib
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

import msgspec

from servery import __version__
from servery.server import answers
from servery.server.audited import audited
from servery.server.dashboard.access import check_guard
from servery.server.dashboard.assets import HEADERS, Asset, assets
from servery.server.dashboard.board import Dashboard
from servery.server.dashboard.past import RANGES
from servery.server.dashboard.session import LASTS_S, Session
from servery.server.interrupt import Reason
from servery.server.request import Request
from servery.server.service import Exchange, Service
from servery.server.storage import read_page
from servery.telemetry.ledger.errors import DatabaseFailure, LedgerError
from servery.upstream.caller import Caller
from servery.wire.body import decode
from servery.wire.errors import ApiError, invalid, model_not_found, shown

_PRIVATE = (*HEADERS, ("cache-control", "no-store"))
_MOST_LOGIN_BYTES = 4096
_OUT: Mapping[str, object] = MappingProxyType({"object": "dashboard.session", "role": None})
_NOBODY = Caller(key="nobody")  # what the audit log calls whoever has no key


class _Login(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    key: str


_LOGIN = msgspec.json.Decoder(_Login)


async def page(service: Service, exchange: Exchange) -> None:
    """The page; it has nothing in it before somebody may look."""
    await _send(exchange, assets()["index.html"])


async def moved(service: Service, exchange: Exchange) -> None:
    """From the address with a slash at its end to the one without, whatever stands in front of both."""
    await exchange.reply.whole(b"", status=308, headers=(*HEADERS, ("location", "../dashboard")))


async def asset(service: Service, exchange: Exchange) -> None:
    """A file of the page."""
    found = assets().get(exchange.arguments["name"])
    if found is None:
        raise ApiError(404, f"The dashboard has no file '{shown(exchange.arguments['name'])}'.", code="not_found")
    await _send(exchange, found)


async def session(service: Service, exchange: Exchange) -> None:
    """Who looks, and what he may do; nobody is told why, and whether a key would help."""
    access = _board(service).access
    try:
        told = _told(await access.look(exchange.request))
    except ApiError as refusal:
        told = {**_OUT, "reason": str(refusal), "asks_for_key": refusal.status == 401}
    await _json(exchange, told)


async def login(service: Service, exchange: Exchange) -> None:
    """Begin a session, with a key."""
    board, request = _board(service), exchange.request
    check_guard(request)
    board.access.check_attempts(request)
    body = decode(await request.json_body(_MOST_LOGIN_BYTES, "the {bytes} bytes that a login may have"), _LOGIN)
    exchange.caller = _NOBODY
    async with audited(service.audit, exchange, "dashboard login"):
        found = board.access.sessions.who(body.key)
        board.access.attempted(request, has_failed=found is None)
        if found is None:
            raise ApiError(401, "This is neither an admin key nor a viewer key of this server.", code="invalid_key")
        exchange.caller = found[1].caller
        exchange.subject = found[0].value
    cookie, who = await board.access.sessions.begin(*found)
    name = board.access.sessions.cookie
    await _json(exchange, _told(who), ("set-cookie", _cookie(request, f"{name}={cookie}", int(LASTS_S[who.role]))))


async def logout(service: Service, exchange: Exchange) -> None:
    """End a session."""
    board, request = _board(service), exchange.request
    check_guard(request)
    with contextlib.suppress(ApiError):  # whoever has none is out already
        who = await board.access.look(request)
        board.access.sessions.end(who)
    await _json(exchange, dict(_OUT), ("set-cookie", _cookie(request, f"{board.access.sessions.cookie}=", 0)))


async def snapshot(service: Service, exchange: Exchange) -> None:
    """Everything that is shown live, as one object."""
    board = _board(service)
    await board.access.look(exchange.request)
    await exchange.reply.whole(await board.feed.snapshot(), headers=_PRIVATE)


async def feed(service: Service, exchange: Exchange) -> None:
    """The same as a stream: everything once, then every second what is new."""
    board = _board(service)
    who = await board.access.look(exchange.request)
    exchange.reply.headers += list(HEADERS)
    view = board.feed.view()
    watching = exchange.request.watch(partial(_gone, exchange))
    try:
        async with contextlib.aclosing(view):
            async for event in view:
                if board.access.sessions.is_over(who):
                    await exchange.reply.stream(b"event: over\ndata: {}\n\n")
                    break
                await exchange.reply.stream(event)
        if not exchange.reply.is_complete:
            await exchange.reply.stream(b": the end\n\n")
            await exchange.reply.end_stream()
    finally:
        if watching is not None:
            watching.cancel()


async def history(service: Service, exchange: Exchange) -> None:
    """Hours and days that are over: `range`, and `model` if only one is meant."""
    board = _board(service)
    await board.access.look(exchange.request)
    given = read_page(exchange.request.query, "range", "model").others
    name, model = given.get("range", "1h"), given.get("model", "")
    if name not in RANGES:
        raise invalid(f"'range' is '{shown(name)}'; it must be one of {', '.join(RANGES)}.", "range")
    models = service.gateway.fleet.models
    if model and model not in models:
        raise model_not_found(model, models)
    try:
        body = await board.past.read(name, model)
    except (LedgerError, DatabaseFailure) as error:
        message = "The ledger cannot be read now."
        raise ApiError(503, message, kind="server_error", code="ledger_unavailable") from error
    await exchange.reply.whole(body, headers=_PRIVATE)


async def chat(service: Service, exchange: Exchange) -> None:
    """Ask a model from the playground, in the name of whoever logged in."""
    who = await _board(service).access.act(exchange.request)
    exchange.caller = who.caller
    await answers.chat(service, exchange)


def _board(service: Service) -> Dashboard:
    if service.dashboard is None:
        raise ApiError(404, "This server has no dashboard.", code="no_dashboard")
    return service.dashboard


def _told(who: Session) -> dict[str, object]:
    return {
        "object": "dashboard.session",
        "role": who.role.value,
        "key": who.caller.key,
        "may_ask": who.role.may_ask,
        "expires_s": who.expires_s if who.nonce else None,
        "version": __version__,
    }


def _cookie(request: Request, pair: str, lasts_s: int) -> str:
    """For this page alone, out of its scripts' sight; over TLS only if it came that way."""
    is_tls = request.headers.get(b"x-forwarded-proto", b"").lower() == b"https"
    rest = "; Secure" if is_tls else ""
    return f"{pair}; Path=/dashboard; Max-Age={lasts_s}; HttpOnly; SameSite=Strict{rest}"


def _gone(exchange: Exchange) -> None:
    if not exchange.reply.is_complete:
        exchange.interrupt.fire(Reason.CLIENT)


async def _json(exchange: Exchange, body: dict[str, object], *headers: tuple[str, str]) -> None:
    await exchange.reply.whole(msgspec.json.encode(body), headers=(*_PRIVATE, *headers))


async def _send(exchange: Exchange, found: Asset) -> None:
    """A file, packed for who takes that; nothing of it for who has it."""
    headers = [*HEADERS, ("cache-control", "no-cache"), ("etag", found.tag), ("vary", "accept-encoding")]
    given = exchange.request.headers
    if given.get(b"if-none-match", b"").decode("latin-1") == found.tag:
        await exchange.reply.whole(b"", status=304, content_type=found.content_type, headers=headers)
        return
    is_packed = "gzip" in given.get(b"accept-encoding", b"").decode("latin-1")
    if is_packed:
        headers.append(("content-encoding", "gzip"))
    await exchange.reply.whole(
        found.packed if is_packed else found.data, content_type=found.content_type, headers=headers
    )
