"""What is traced of a batch: each of its requests, whenever it is tried, as a trace of its own that names the batch."""

from servery.batch.work import Asked
from servery.telemetry.traces import conventions as names
from servery.telemetry.traces.trace import INTERNAL, Trace
from servery.telemetry.traces.tracer import Tracer


def end_batched(tracer: Tracer, trace: Trace, asked: Asked, times_s: tuple[float, float], error: str | None) -> None:
    """A request of a batch was tried, from and until these times; `error` is what it failed with."""
    if not trace.is_sampled:
        return
    trace.attributes |= {names.REQUEST_ID: asked.request_id, names.BATCH_ID: asked.batch_id}
    if error is not None:
        trace.error = trace.error or error
        trace.attributes[names.ERROR_TYPE] = trace.error
    tracer.end(trace, f"batch {asked.endpoint}", *times_s, kind=INTERNAL)
