"""Streams that are passed on: what the client gets is what came, but for three things."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.upstream.failure import Kind, UpstreamFailure
from servery.upstream.relay.stream import RelayedStream
from servery.upstream.relay.watches import NO_USAGE, ChatWatch, MessagesWatch, ResponsesWatch
from servery.upstream.upstream import Chunk
from servery.wire.errors import ApiError
from servery.wire.usage import Usage

USAGE = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11, "prompt_tokens_details": {"cached_tokens": 4}}


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps({"id": "x", "model": "theirs", **fields}, separators=(",", ":")).encode() + b"\n\n"


def choice(text: str | None = None, finish: str | None = None, index: int = 0, **more: Any) -> bytes:
    delta = {} if text is None else {"content": text}
    return event(choices=[{"index": index, "delta": {**delta, **more}, "finish_reason": finish}], usage=None)


HEAD, WORD, LAST = choice("", role="assistant"), choice('he said "model":"theirs", "error"'), choice(finish="stop")
COUNTED = event(choices=[], usage=USAGE)
DONE = b"data: [DONE]\n\n"


def stream(n: int = 1, *, hides_usage: bool = True, model: str = "mine") -> RelayedStream:
    return RelayedStream("gpt", ChatWatch("gpt", n, hides_usage=hides_usage), model, NO_USAGE if hides_usage else ())


def relayed(data: bytes, reader: RelayedStream) -> tuple[bytes, int, list[str | None], Usage | None]:
    chunks = [*reader.feed(data), *reader.end()]
    reasons = [chunk.finish_reason for chunk in chunks if chunk.finish_reason]
    usage = [chunk.usage for chunk in chunks if chunk.usage]
    return b"".join(chunk.data for chunk in chunks), sum(chunk.tokens for chunk in chunks), reasons, usage[-1] if usage else None  # fmt: skip


def mine(data: bytes) -> bytes:
    return data.replace(b'"model":"theirs"', b'"model":"mine"')


def test_the_model_is_the_clients_and_usage_that_nobody_asked_for_stays_here() -> None:
    told = mine(HEAD + WORD + LAST).replace(b',"usage":null', b"")

    assert relayed(HEAD + WORD + LAST + COUNTED + DONE, stream()) == (told, 1, ["stop"], Usage.of(9, 2, 4))


def test_usage_that_was_asked_for_goes_along_as_it_came() -> None:
    data = HEAD + WORD + LAST + COUNTED

    assert relayed(data + DONE, stream(hides_usage=False)) == (mine(data), 1, ["stop"], Usage.of(9, 2, 4))


def test_a_name_that_is_right_already_leaves_every_byte_as_it_is() -> None:
    data = b'data: {"odd" : [1,2 ],"model":"theirs","choices":[]}\n\n'

    assert b"".join(chunk.data for chunk in stream(model="theirs").feed(data)) == data


def test_comments_and_done_are_not_for_the_client() -> None:
    data = b": processing\n\n" + WORD + b": ka\n" + LAST + DONE

    told, tokens, _, _ = relayed(data, stream())
    assert (told, tokens) == (mine(WORD + LAST).replace(b',"usage":null', b""), 1)


@given(st.lists(st.integers(1, 50), max_size=40), st.booleans())
def test_pieces_of_any_size_are_passed_on_the_same(sizes: list[int], has_crlf: bool) -> None:
    data = HEAD + WORD + LAST + COUNTED + DONE
    whole, reader = relayed(data, stream()), stream()
    data = data.replace(b"\n", b"\r\n") if has_crlf else data
    chunks: list[Chunk] = []
    for size in (*sizes, len(data)):
        chunks += reader.feed(data[:size])
        data = data[size:]

    assert b"".join(chunk.data for chunk in [*chunks, *reader.end()]) == whole[0]


def test_completions_of_one_answer_are_counted_apart() -> None:
    reader = stream(n=2)
    chunks = reader.feed(choice("a") + choice("b", index=1) + choice("c", index=1) + choice(finish="length", index=1))

    assert [(chunk.index, chunk.tokens, chunk.finish_reason) for chunk in chunks] == [(0, 1, None), (1, 2, "length")]
    with pytest.raises(UpstreamFailure):
        reader.end()
    reader.feed(choice(finish="stop"))
    assert reader.end() == [Chunk(is_estimated=True)]  # nobody counted
    reader.feed(COUNTED)
    assert reader.end() == []


def test_a_clean_close_in_the_middle_is_a_cut() -> None:
    with pytest.raises(UpstreamFailure) as caught:
        relayed(HEAD + WORD, stream())

    assert caught.value.kind is Kind.CUT


@pytest.mark.parametrize("data", [b"data: <html>\n\n", b"data: {\n\n", b'data: {"choices": "error"}\n\n'])
def test_what_is_no_event_is_malformed(data: bytes) -> None:
    data = data.replace(b'"error"', b'"error", "finish_reason":""')
    with pytest.raises(UpstreamFailure) as caught:
        stream().feed(data)

    assert caught.value.kind is Kind.MALFORMED


def test_an_error_event_is_no_part_of_the_answer() -> None:
    reader = stream()
    reader.feed(WORD)

    with pytest.raises(UpstreamFailure, match="boom"):
        reader.feed(b'data: {"error": {"message": "boom", "code": 500}}\n\n')


def test_legacy_completions_are_passed_on_as_well() -> None:
    word = event(choices=[{"index": 0, "text": "a", "finish_reason": None}])
    last = event(choices=[{"index": 0, "text": "", "finish_reason": "length"}])

    assert relayed(word + last + DONE, stream()) == (mine(word + last), 1, ["length"], None)


def typed(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields}, separators=(',', ':'))}\n\n".encode()


MESSAGE = typed("message_start", message={"model": "theirs", "usage": {"input_tokens": 5, "cache_read_input_tokens": 4, "output_tokens": 1}})  # fmt: skip
PIECE = typed("content_block_delta", index=0, delta={"type": "text_delta", "text": "a"})
ENDED = typed("message_delta", delta={"stop_reason": "tool_use"}, usage={"output_tokens": 2})
STOPPED = typed("message_stop")


def test_anthropics_events_are_passed_on() -> None:
    data = MESSAGE + typed("content_block_start", index=0, content_block={"type": "text", "text": ""}) + typed("ping") + PIECE + ENDED + STOPPED  # fmt: skip
    reader = RelayedStream("claude", MessagesWatch("claude"), "mine")

    assert relayed(data, reader) == (mine(data), 1, ["tool_calls"], Usage.of(9, 2, 4))


def test_anthropics_errors_and_cuts_are_failures() -> None:
    reader = RelayedStream("claude", MessagesWatch("claude"), "mine")
    reader.feed(MESSAGE)

    with pytest.raises(UpstreamFailure, match="ended before it was complete"):
        reader.end()
    with pytest.raises(UpstreamFailure, match="busy"):
        reader.feed(typed("error", error={"type": "overloaded_error", "message": "busy"}))


CREATED = typed("response.created", response={"id": "r", "model": "theirs", "status": "in_progress", "usage": None})
TEXT = typed("response.output_text.delta", delta="a")


@pytest.mark.parametrize(
    ("kind", "response", "reason"),
    [
        ("completed", {}, "stop"),
        ("incomplete", {"incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ("incomplete", {"incomplete_details": {"reason": "content_filter"}}, "content_filter"),
    ],
)
def test_responses_are_passed_on(kind: str, response: dict[str, Any], reason: str) -> None:
    usage = {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 2}
    end = typed(f"response.{kind}", response={"model": "theirs", "status": kind, "usage": usage, **response})
    reader = RelayedStream("gpt", ResponsesWatch("gpt"), "mine")

    assert relayed(CREATED + TEXT + end, reader) == (mine(CREATED + TEXT + end), 1, [reason], Usage.of(9, 2, 4))


def test_a_response_that_fails_is_a_failure() -> None:
    def reader() -> RelayedStream:
        return RelayedStream("gpt", ResponsesWatch("gpt"), "mine")

    with pytest.raises(UpstreamFailure, match="boom"):
        reader().feed(typed("response.failed", response={"error": {"code": "server_error", "message": "boom"}}))
    with pytest.raises(UpstreamFailure, match="boom"):
        reader().feed(typed("error", message="boom", code="server_error"))
    with pytest.raises(UpstreamFailure, match="ended before it was complete"):
        relayed(CREATED + TEXT, reader())


def test_an_error_of_the_clients_in_a_stream_is_the_clients() -> None:
    with pytest.raises(ApiError) as caught:
        stream().feed(b'data: {"error": {"message": "no", "code": 400}}\n\n')

    assert caught.value.status == 400
