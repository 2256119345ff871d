from servery.wire.message import Call, CallDelta, Message, MessageDelta, TokenLogprob


def test_a_message_is_the_sum_of_its_deltas() -> None:
    message = Message(index=1)

    message.add(MessageDelta(index=1, reasoning="two and", content=""))
    message.add(
        MessageDelta(index=1, reasoning=" two", content="fo", logprobs=[TokenLogprob("fo", -1.0, [102, 111], [])])
    )
    message.add(MessageDelta(index=1, content="ur", logprobs=[TokenLogprob("ur", -2.0, [117, 114], [])]))
    message.add(MessageDelta(index=1, calls=(CallDelta(position=0, id="call_1", name="add", arguments="{"),)))
    message.add(
        MessageDelta(
            index=1, calls=(CallDelta(position=0, arguments="}"), CallDelta(position=1, id="call_2", name="sub"))
        )
    )
    message.add(MessageDelta(index=1, finish_reason="tool_calls"))

    assert message == Message(
        index=1,
        reasoning="two and two",
        content="four",
        calls=[Call(id="call_1", name="add", arguments="{}"), Call(id="call_2", name="sub", arguments="")],
        logprobs=[TokenLogprob("fo", -1.0, [102, 111], []), TokenLogprob("ur", -2.0, [117, 114], [])],
        finish_reason="tool_calls",
    )


def test_a_delta_that_says_nothing_is_empty() -> None:
    assert MessageDelta(index=3).is_empty
    assert not MessageDelta(finish_reason="stop").is_empty
    assert not MessageDelta(logprobs=[TokenLogprob("", 0.0, [], [])]).is_empty
