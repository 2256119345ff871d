"""What a server traces: whether it does, and the span of a whole request, as its client saw it."""

import logging
import os
from uuid import uuid4

from servery.config.types import Config
from servery.server.option_error import OptionError
from servery.server.service import Exchange
from servery.telemetry.traces import conventions as names
from servery.telemetry.traces.settings import TracesUnavailable, trace_settings
from servery.telemetry.traces.trace import Trace
from servery.telemetry.traces.tracer import Tracer

log = logging.getLogger(__name__)

_FAULT = 500  # of the server; what is the client's own fault is no error of this span


def end_trace(tracer: Tracer, exchange: Exchange, trace: Trace, route: str, status: int, now_s: float) -> None:
    """The request is over, answered with `status`."""
    if not trace.is_sampled:
        return
    request, error = exchange.request, exchange.reply.error
    trace.attributes |= {
        names.HTTP_METHOD: request.method,
        names.HTTP_ROUTE: route,
        names.HTTP_STATUS: status,
        names.REQUEST_ID: request.id,
    }
    if status >= _FAULT or (error is not None and error.status >= _FAULT):
        trace.error = trace.error or (None if error is None else error.code) or str(status)
        trace.attributes[names.ERROR_TYPE] = trace.error
    tracer.end(trace, f"{request.method} {route}", request.arrived_s, now_s)


def server_tracer(config: Config | None, worker: int) -> Tracer | None:
    """This process's; None where traces are off.

    Raises `OptionError` for what the file asks for and cannot be had. What the environment alone asks for is often meant
    for every process on a machine: then a line in the log says why there are no traces.
    """
    traces = None if config is None else config.telemetry.traces
    try:
        settings = trace_settings(traces, os.environ)
    except TracesUnavailable as error:
        if traces is not None:
            raise OptionError(f"telemetry.traces: {error}") from error
        log.warning("there are no traces: %s", error)
        return None
    if settings is None:
        return None
    return Tracer(settings, {"service.instance.id": str(uuid4()), "servery.worker": str(worker)})
