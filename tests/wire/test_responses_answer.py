import json
from typing import Any

import pytest

from servery.wire.errors import invalid
from servery.wire.message import Call, CallDelta, Message, MessageDelta
from servery.wire.responses import decode_responses
from servery.wire.responses_answer import RESPONSES, ResponsesForm
from servery.wire.responses_items import CallItem, Item, MessageItem, OutputText, ReasoningItem, ReasoningText
from servery.wire.usage import Usage

USAGE = Usage.of(7, 3, 4, 1)
DELTAS = [
    MessageDelta(reasoning="h"),
    MessageDelta(reasoning="m"),
    MessageDelta(content="I "),
    MessageDelta(content="add."),
    MessageDelta(calls=(CallDelta(position=0, id="c1", name="add"),)),
    MessageDelta(calls=(CallDelta(position=0, arguments="{}"),)),
    MessageDelta(calls=(CallDelta(position=1, id="c2", name="add", arguments="{}"),)),
    MessageDelta(finish_reason="tool_calls"),
]
SAID: list[Item] = [
    ReasoningItem(content=[ReasoningText("hm")]),
    MessageItem(role="assistant", content=[OutputText("I add.")]),
    CallItem(call_id="c1", name="add", arguments="{}"),
    CallItem(call_id="c2", name="add", arguments="{}"),
]


def form(kept: list[tuple[dict[str, Any], list[Item]]] | None = None, **fields: Any) -> ResponsesForm:
    request = decode_responses(json.dumps({"model": "m", "input": "hi", **fields}).encode())
    return ResponsesForm("resp_1", 5, request, None if kept is None else lambda *each: kept.append(each))


def events(data: bytes) -> list[dict[str, Any]]:
    found = []
    for part in data.decode().split("\n\n")[:-1]:
        first, second = part.splitlines()
        value = json.loads(second.removeprefix("data: "))
        assert first == f"event: {value['type']}"
        found.append(value)
    return found


def without_ids(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in item.items() if name != "id"} for item in items]


def summed() -> Message:
    message = Message(index=0)
    for delta in DELTAS:
        message.add(delta)
    return message


def test_a_stream_and_a_whole_answer_say_the_same() -> None:
    kept: list[tuple[dict[str, Any], list[Item]]] = []
    streamed = form(kept)
    told = events(streamed.start(USAGE) + b"".join(map(streamed.delta, DELTAS)) + streamed.end(USAGE))
    whole = json.loads(form(kept).body([summed()], USAGE))

    last = told[-1]["response"]
    assert without_ids(last.pop("output")) == without_ids(whole.pop("output"))
    assert last == whole
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert [said for _, said in kept] == [SAID, SAID]
    assert whole["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 10,
    }


def test_every_item_is_added_grows_and_is_done() -> None:
    streamed = form()
    told = events(streamed.start(USAGE) + b"".join(map(streamed.delta, DELTAS)) + streamed.end(USAGE))

    assert [(event["type"].removeprefix("response."), event.get("output_index")) for event in told] == [
        ("created", None), ("in_progress", None),
        ("output_item.added", 0), ("reasoning_text.delta", 0), ("reasoning_text.delta", 0), ("reasoning_text.done", 0),
        ("output_item.done", 0),
        ("output_item.added", 1), ("content_part.added", 1), ("output_text.delta", 1), ("output_text.delta", 1),
        ("output_text.done", 1), ("content_part.done", 1), ("output_item.done", 1),
        ("output_item.added", 2), ("function_call_arguments.delta", 2), ("function_call_arguments.done", 2),
        ("output_item.done", 2),
        ("output_item.added", 3), ("function_call_arguments.delta", 3), ("function_call_arguments.done", 3),
        ("output_item.done", 3),
        ("completed", None),
    ]  # fmt: skip


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_a_response_that_was_cut_is_incomplete(finish: str, reason: str) -> None:
    answer = json.loads(form().body([Message(index=0, content="I", finish_reason=finish)], USAGE))

    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": reason})


def test_the_request_is_repeated_in_the_response() -> None:
    tool = {"type": "function", "name": "add"}
    answer = json.loads(form(tools=[tool], metadata={"a": "b"}, temperature=0.5).body([Message(index=0)], USAGE))

    assert (answer["tools"], answer["metadata"], answer["temperature"]) == ([tool], {"a": "b"}, 0.5)


def test_what_the_client_leaves_out_is_shown_as_it_is_in_force() -> None:
    unknown, known = form(top_p=0.9), form(top_p=0.9)
    known.tell({"temperature": 0.6, "top_p": 0.8})
    shown = [json.loads(each.body([Message(index=0)], USAGE)) for each in (unknown, known)]

    assert [(each["temperature"], each["top_p"]) for each in shown] == [(None, 0.9), (0.6, 0.9)]


def test_a_call_keeps_its_arguments_and_an_error_its_shape() -> None:
    message = Message(index=0, calls=[Call(id="c", name="add", arguments='{"a":1}')], finish_reason="tool_calls")
    (item,) = json.loads(form().body([message], USAGE))["output"]

    assert (item["type"], item["call_id"], item["name"], item["arguments"]) == ("function_call", "c", "add", '{"a":1}')
    (event,) = events(RESPONSES.error_event(invalid("no", "input"), "req_1"))
    assert (event["type"], event["message"], event["param"]) == ("error", "no", "input")


def test_what_a_limit_cut_is_incomplete_itself() -> None:
    """Nobody is to call a function with half of its arguments."""
    cut = [*DELTAS[:-1], MessageDelta(finish_reason="length")]
    message = Message(index=0)
    for delta in cut:
        message.add(delta)
    whole = json.loads(form().body([message], USAGE))
    writer = form()
    streamed = events(b"".join(map(writer.delta, cut)) + writer.end(USAGE))
    done = [event["item"] for event in streamed if event["type"] == "response.output_item.done"]

    statuses = ["completed", "completed", "completed", "incomplete"]
    assert [item["status"] for item in whole["output"]] == statuses
    assert [item["status"] for item in done] == statuses
    assert without_ids(done) == without_ids(whole["output"]) == without_ids(streamed[-1]["response"]["output"])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("max_tokens", "max_output_tokens"),
        ("response_format.json_schema.schema", "text.format.schema"),
        ("verbosity", "text.verbosity"),
        ("temperature", "temperature"),
    ],
)
def test_errors_name_the_parameter_that_the_client_gave(ours: str, theirs: str) -> None:
    error = invalid(f"'{ours}' is wrong.", ours)
    body = json.loads(RESPONSES.error(error, "r"))["error"]
    (event,) = events(RESPONSES.error_event(error, "r"))

    assert (body["param"], body["message"], body["code"]) == (theirs, f"'{theirs}' is wrong.", "invalid_value")
    assert (event["param"], event["message"], event["code"]) == (theirs, f"'{theirs}' is wrong.", "invalid_value")


def test_a_parameter_that_is_unknown_keeps_the_name_that_the_client_wrote() -> None:
    error = invalid("Unknown parameter: 'max_tokens'.", "max_tokens", "unknown_parameter")
    assert json.loads(RESPONSES.error(error, "r"))["error"]["param"] == "max_tokens"
