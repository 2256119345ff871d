"""A response's stream is read back to where it stands, or not at all."""

from typing import Any

import msgspec
import pytest

from servery.wire.message import CallDelta, Message, MessageDelta
from servery.wire.responses import decode_responses
from servery.wire.responses_answer import ResponsesForm
from servery.wire.responses_told import NotReadable, told_response
from servery.wire.sse import EventCutter, data_of
from servery.wire.usage import Usage

DELTAS = [
    MessageDelta(reasoning="Hm"),
    MessageDelta(reasoning=", well."),
    MessageDelta(content="It is"),
    MessageDelta(content=" so."),
    MessageDelta(calls=(CallDelta(position=0, id="call_1", name="look", arguments='{"a"'),)),
    MessageDelta(calls=(CallDelta(position=0, arguments=": 1}"),)),
    MessageDelta(calls=(CallDelta(position=1, id="call_2", name="go"),)),
    MessageDelta(calls=(CallDelta(position=1, arguments="{}"),)),
    MessageDelta(finish_reason="tool_calls"),
]


def form() -> ResponsesForm:
    return ResponsesForm("resp_1", 5, decode_responses(b'{"model": "m", "input": "hi"}'))


def events(data: bytes) -> list[dict[str, Any]]:
    return [msgspec.json.decode(text) for lines in EventCutter().feed(data) if (text := data_of(lines))]


@pytest.mark.parametrize("cut", range(1, len(DELTAS)))
def test_what_two_wrote_one_after_the_other_is_what_one_would_have_written(cut: int) -> None:
    first, usage = form(), Usage.of(3, 4, 0)
    began = first.start(usage) + b"".join(first.delta(delta) for delta in DELTAS[:cut])
    told = told_response(events(began))
    second = form()
    for delta in told.deltas:
        second.delta(delta)
    second.take_up(told)
    rest = [writer.delta(delta) for writer in (first, second) for delta in DELTAS[cut:]]
    ends = [writer.end(usage) for writer in (first, second)]

    ids = [event["item"]["id"] for event in events(began) if event["type"] == "response.output_item.added"]
    half = len(rest) // 2
    whole = [events(b"".join(each)) for each in ((*rest[:half], ends[0]), (*rest[half:], ends[1]))]
    assert [_named_alike(each, ids) for each in whole[1]] == [_named_alike(each, ids) for each in whole[0]]
    assert _said(told.deltas) == _said(DELTAS[:cut])


def _said(deltas: list[MessageDelta]) -> Message:
    message = Message(index=0, calls=[])
    for delta in deltas:
        message.add(delta)
    return message


def _named_alike(event: dict[str, Any], ids: list[str]) -> Any:
    """With the ids of items that were begun, and without those that were drawn since."""

    def alike(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: "" if name in ("id", "item_id") and each not in ids else alike(each)
                for name, each in value.items()
            }
        return [alike(each) for each in value] if isinstance(value, list) else value

    return alike(event)


@pytest.mark.parametrize(
    "further",
    [
        [{"type": "response.output_item.added", "output_index": 0, "item": {"type": "web_search_call"}}],
        [{"type": "response.output_item.added", "output_index": 1, "item": {"type": "message"}}],
        [{"type": "response.output_item.added", "output_index": 0}],
        [{"type": "response.output_text.delta", "delta": "a"}],
        [{"type": "response.output_item.done", "item": {}}],
        [{"type": "response.reasoning_summary_text.delta", "delta": "a"}],
        [{"type": "response.queued"}],
        [{}],
    ],
)
def test_what_is_not_known_is_not_guessed(further: list[dict[str, Any]]) -> None:
    with pytest.raises(NotReadable):
        told_response([*events(form().start(Usage.of(0, 0, 0))), *further])
