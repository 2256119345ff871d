"""The ASGI application: every request takes one way through it, and every error becomes an answer in one place."""

import asyncio
import logging

from servery.server.audited import audited
from servery.server.interrupt import ClientGone, Interrupt, Reason, interruption
from servery.server.outlet import AsgiOutlet, Outlet
from servery.server.reply import Reply
from servery.server.request import Line, Request
from servery.server.request_line import RequestLine
from servery.server.routes import Destination, Route, find, no_route, spoken
from servery.server.service import Exchange, Service
from servery.server.traced import end_trace
from servery.server.types import Receive, Scope, Send
from servery.wire.errors import ApiError, failed

log = logging.getLogger("servery.request")

# What logs and metrics show for a client that did not wait for its answer (nginx's number).
CLIENT_GONE = 499


class App:
    """Answers HTTP requests with the parts of `service`. Whoever runs it starts and stops the upstreams."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's entry; of its protocols only HTTP is spoken."""
        if scope["type"] != "http":
            raise ValueError(f"Servery's application does not speak {scope['type']!r}.")
        await self.answer(scope, receive, AsgiOutlet(send))

    async def answer(self, scope: Scope, receive: Receive, outlet: Outlet, line: Line | None = None) -> None:
        """Answer one request by way of `outlet`; `line` as `Request` has it."""
        request = Request(scope, receive, self._service.clock(), line)
        found = find(request.method, request.path)
        route = None if found is None else found.any_route
        exchange = Exchange(
            request=request,
            reply=Reply(outlet, request.id, (route and route.dialect) or spoken(route, request.headers)),
            interrupt=_interrupt(line),
            arguments={} if found is None else found.matched.arguments,
        )
        tracer = self._service.tracer
        if tracer is not None and route is not None and route.is_work:
            exchange.trace = tracer.begin(request.headers)
        cut_by: str | None = "error"
        try:
            try:
                await self._handle(found, route, exchange)
                cut_by = None
            except BaseException as error:  # noqa: BLE001 - what is nobody's business here is raised again
                cut_by = await self._told(error, exchange)
        finally:
            exchange.interrupt.close()
            self._settle(route, exchange, cut_by)

    async def _told(self, error: BaseException, exchange: Exchange) -> str:
        """Answer with what was raised, whatever it is; returns who cut the answer short."""
        try:
            return await self._failed(error, exchange)
        except ClientGone:
            return Reason.CLIENT.value
        except asyncio.CancelledError:
            reason = exchange.interrupt.reason
            if reason is None:
                raise  # not one of ours: whoever runs the server wants it to end
            exchange.interrupt.absorb()
            if reason is not Reason.CLIENT:
                await exchange.reply.fail(self._interruption(reason, exchange))
            return reason.value

    async def _failed(self, error: BaseException, exchange: Exchange) -> str:
        if isinstance(error, ApiError):
            await exchange.reply.fail(error)
        elif isinstance(error, ClientGone) or not isinstance(error, Exception):
            raise error
        else:  # the one boundary: whatever it is, the client gets an answer
            known = {"request_id": exchange.request.id}
            log.exception("request %s failed", exchange.request.id, exc_info=error, extra=known)
            await exchange.reply.fail(failed("The server failed while answering; the failure was logged."))
        return "error"

    async def _handle(self, found: Destination | None, route: Route | None, exchange: Exchange) -> None:
        """`route` is any of those that `found` has: all routes of a path have the same door."""
        service = self._service
        if route is not None and route.is_admin:
            await self._let_in(route, exchange)
        elif route is not None and route.is_figures:
            service.metrics_door.check(exchange.request)
        elif route is None or not route.is_open:
            exchange.caller = service.keys.admit(exchange.request.head.key_digest)
        if found is None:
            raise no_route(exchange.request.path)
        route = found.exact or found.route()
        if not route.is_work:
            await route.handler(service, exchange)
            return
        service.lifecycle.begin(exchange.interrupt)
        try:
            if route.is_admin:
                async with audited(service.audit, exchange, f"{route.method} {route.path}"):
                    await route.handler(service, exchange)
            else:
                await route.handler(service, exchange)
        finally:
            service.lifecycle.end(exchange.interrupt)

    async def _let_in(self, route: Route, exchange: Exchange) -> None:
        """Only admins; who is turned away stands in the audit log."""
        service, request = self._service, exchange.request
        try:
            exchange.caller = service.admin.check(request)
        except ApiError as error:
            who, action = service.keys.named(request.headers) or "unknown", f"{_known(request.method)} {route.path}"
            await service.turned_away.tell(who=who, action=action, source=request.peer or "", error=error)
            raise

    def _interruption(self, reason: Reason, exchange: Exchange) -> ApiError:
        options = self._service.options
        total_s = options.request_timeout_s if exchange.total_s is None else exchange.total_s
        setting = "--request-timeout" if options.config is None else "timeouts.total of the model"
        return interruption(reason, body_timeout_s=options.body_timeout_s, request_timeout_s=total_s, setting=setting)

    def _settle(self, route: Route | None, exchange: Exchange, cut_by: str | None) -> None:
        """Record what became of the exchange: once, and without awaiting anything."""
        request, record = exchange.request, exchange.record
        status = CLIENT_GONE if cut_by == Reason.CLIENT.value else exchange.reply.status or 500
        label, shown = ("other", repr(request.path[:60])) if route is None else (route.path, route.path)
        method = request.method if route is not None and route.method == request.method else _known(request.method)
        self._service.metrics.count_request(method, label, status)
        if exchange.trace is not None and self._service.tracer is not None:
            end_trace(self._service.tracer, exchange, exchange.trace, label, status, self._service.clock())
        is_routine = route is not None and not route.is_work and (status < 400 or route.is_open)
        level = logging.DEBUG if is_routine else logging.INFO
        if log.isEnabledFor(level):
            line = RequestLine(
                method=method,
                route=shown,
                status=status,
                request_id=request.id,
                took_ms=1000 * (self._service.clock() - request.arrived_s),
                record=record,
                trace_id=None if exchange.trace is None else exchange.trace.shown_id,
                error=None if exchange.reply.error is None else str(exchange.reply.error.code),
                is_client_gone=cut_by == Reason.CLIENT.value,
            )
            log.log(level, "%s", line)


def _interrupt(line: Line | None) -> Interrupt:
    if line is not None and line.task is not None:
        return Interrupt(line.task, line.alarm)
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("Servery's application must run in a task of asyncio.")
    return Interrupt(task)


def _known(method: str) -> str:
    return method if method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH") else "other"
