"""What is traced of the requests of a batch, which come with no request of their own."""

import pytest

from servery.batch.work import Asked
from servery.server.storage import Answering
from servery.telemetry.traces import conventions as names
from servery.telemetry.traces.settings import TraceSettings
from servery.telemetry.traces.trace import INTERNAL, SERVER, Span, Trace
from servery.telemetry.traces.tracer import Tracer
from servery.upstream.upstream import Chunk
from servery.wire.errors import ApiError
from tests.gateway.scripted import Scripted, Stage
from tests.gateway.virtual_time import now, run


class Keeping(Tracer):
    """Keeps what is sent."""

    def __init__(self) -> None:
        super().__init__(TraceSettings(), {})
        self.kept: list[list[Span]] = []

    def end(self, trace: Trace, name: str, start_s: float, end_s: float, kind: str = SERVER) -> None:
        super().end(trace, name, start_s, end_s, kind)
        self.kept.append(trace.spans)


def asked(model: str = "m") -> Asked:
    body = b'{"model": "%s", "messages": [{"role": "user", "content": "hi"}]}' % model.encode()
    return Asked(endpoint="/v1/chat/completions", body=body, owner=b"", request_id="req_7", batch_id="batch_1")


def answering(made: Stage, tracer: Tracer) -> Answering:
    return Answering(lambda name, caller: (name, name), made.gateway.collect, tracer=tracer, clock=now)


def test_each_request_of_a_batch_has_a_trace_that_names_the_batch() -> None:
    async def story() -> None:
        tracer = Keeping()
        room = answering(Stage({"a": Scripted([2.0, Chunk(data=b"{}", finish_reason="stop")])}), tracer)
        began_s = now()
        for _ in range(2):
            assert await room.answer(asked()) == b"{}"
        for at, spans in enumerate(tracer.kept):
            admission, attempt, root = spans
            assert (admission.name, attempt.name, root.name) == ("admission", "chat m", "batch /v1/chat/completions")
            assert (root.kind, root.parent_id, root.error) == (INTERNAL, None, None)
            assert (root.start_s, root.end_s) == (began_s + 2.0 * at, began_s + 2.0 * at + 2.0)
            assert {admission.parent_id, attempt.parent_id} == {root.span_id}
            assert root.attributes[names.BATCH_ID] == "batch_1"
            assert root.attributes[names.REQUEST_ID] == "req_7"
            assert set(root.attributes) <= names.ATTRIBUTES["request"]
        assert tracer.kept[0][2].span_id != tracer.kept[1][2].span_id

    run(story)


def test_one_that_is_refused_says_so_in_its_trace() -> None:
    async def story() -> None:
        tracer = Keeping()
        room = answering(Stage({"a": Scripted([ApiError(400, "no", code="bad_thing")])}), tracer)
        with pytest.raises(ApiError):
            await room.answer(asked())
        root = tracer.kept[0][-1]
        assert (root.error, root.attributes[names.ERROR_TYPE]) == ("bad_thing", "bad_thing")

    run(story)
