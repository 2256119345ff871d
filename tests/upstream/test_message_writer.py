import re

from servery.engine.completion import TextDelta
from servery.engine.parsing.format import REASONING_FORMATS, TOOL_FORMATS
from servery.engine.parsing.message_parser import MessageParser
from servery.engine.request import FinishReason
from servery.upstream.message_writer import MessageWriter
from servery.wire.message import CallDelta, MessageDelta

HERMES = TOOL_FORMATS["hermes"]
ADD = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
NOW = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'


def writer(most_calls: int | None = None, *, short_ids: bool = False) -> MessageWriter:
    parser = MessageParser(REASONING_FORMATS["think"], HERMES, names=frozenset({"add", "now"}))
    return MessageWriter(parser, None, most_calls=most_calls, short_ids=short_ids)


def last(text: str, reason: FinishReason = FinishReason.STOP) -> TextDelta:
    return TextDelta(index=2, text=text, finish_reason=reason)


def test_a_message_is_told_in_the_order_in_which_it_was_written() -> None:
    written = writer().write(last(f"<think>hm</think>I add.{ADD}{NOW}"))

    ids = [call.id for delta in written for call in delta.calls if call.id is not None]
    assert all(re.fullmatch("call_[0-9a-f]{24}", call_id) for call_id in ids)
    assert len({*ids}) == 2
    assert written == [
        MessageDelta(index=2, reasoning="hm"),
        MessageDelta(index=2, content="I add."),
        MessageDelta(index=2, calls=(CallDelta(position=0, id=ids[0], name="add"),)),
        MessageDelta(index=2, calls=(CallDelta(position=0, arguments='{"a": 1}'),)),
        MessageDelta(index=2, calls=(CallDelta(position=1, id=ids[1], name="now"),)),
        MessageDelta(index=2, calls=(CallDelta(position=1, arguments="{}"),)),
        MessageDelta(index=2, finish_reason="tool_calls"),
    ]


def test_an_answer_cut_by_its_length_says_so_even_with_calls() -> None:
    assert writer().write(last(ADD, FinishReason.LENGTH))[-1].finish_reason == "length"
    assert writer().write(last("four"))[-1].finish_reason == "stop"


def test_one_call_too_many_ends_the_message() -> None:
    only = writer(most_calls=1)

    assert not only.write(TextDelta(index=0, text=ADD))[-1].finish_reason
    assert not only.is_over
    assert only.write(TextDelta(index=0, text=NOW)) == [MessageDelta(finish_reason="tool_calls")]
    assert only.is_over
    assert only.write(TextDelta(index=0, text="more")) == []


def test_reasoning_tokens_are_counted_with_the_end_marker() -> None:
    counted = writer()
    for text in ("<think>", "a", "b", "</think>", "c"):
        counted.write(TextDelta(index=0, text=text, num_tokens=1))

    assert counted.reasoning_tokens == 3


def test_tokens_that_came_in_one_step_with_the_end_of_the_reasoning_are_no_reasoning() -> None:
    texts = ["a", "</think>", "b", "cd"]
    parser = MessageParser(REASONING_FORMATS["think"], begins_in_reasoning=True)
    counted = MessageWriter(parser, None, token_bytes=lambda token_id: texts[token_id].encode())
    counted.write(TextDelta(index=0, text="".join(texts), token_ids=[0, 1, 2, 3], num_tokens=4))

    assert counted.reasoning_tokens == 2


def test_ids_begin_as_the_clients_api_has_them() -> None:
    parser = MessageParser(None, HERMES, names=frozenset({"add"}))
    (call,) = MessageWriter(parser, None, id_prefix="toolu_").write(TextDelta(index=0, text=ADD))[0].calls

    assert re.fullmatch("toolu_[0-9a-f]{24}", call.id or "")


def test_short_ids_are_nine_letters_and_digits() -> None:
    (call,) = writer(short_ids=True).write(TextDelta(index=0, text=ADD))[0].calls

    assert re.fullmatch("[A-Za-z0-9]{9}", call.id or "")
