import random
from collections.abc import Sequence

import pytest

from servery.gateway.relay.continuation import Continuation, Diverged, Said
from servery.wire.message import Call, CallDelta, Message, MessageDelta, TokenLogprob


def letters(chance: random.Random, deltas: Sequence[MessageDelta]) -> list[MessageDelta]:
    """The same message, cut in other places: neighbours of one kind joined, texts split."""
    cut: list[MessageDelta] = []
    for delta in deltas:
        text = delta.content or delta.reasoning
        if text:
            while text:
                size = chance.randint(1, len(text))
                piece, text = text[:size], text[size:]
                kind = "content" if delta.content else "reasoning"
                cut.append(MessageDelta(**{kind: piece}))  # type: ignore[arg-type]
        elif delta.calls and delta.calls[0].id is None:
            arguments = delta.calls[0].arguments
            while arguments:
                size = chance.randint(1, len(arguments))
                piece, arguments = arguments[:size], arguments[size:]
                cut.append(MessageDelta(calls=(CallDelta(position=delta.calls[0].position, arguments=piece),)))
        else:
            cut.append(delta)
    return cut


def story(ids: str) -> list[MessageDelta]:
    """Reasoning, text, two calls, the end; calls have other ids each time, as an engine's do."""
    return [
        MessageDelta(reasoning="let me think"),
        MessageDelta(content="I look twice."),
        MessageDelta(calls=(CallDelta(position=0, id=f"{ids}0", name="look"),)),
        MessageDelta(calls=(CallDelta(position=0, arguments='{"at":1}'),)),
        MessageDelta(calls=(CallDelta(position=1, id=f"{ids}1", name="see"),)),
        MessageDelta(calls=(CallDelta(position=1, arguments='{"at":22}'),)),
        MessageDelta(finish_reason="tool_calls"),
    ]


@pytest.mark.parametrize("seed", range(60))
def test_what_was_said_and_what_is_new_are_together_the_whole_answer_wherever_it_was_cut(seed: int) -> None:
    chance = random.Random(seed)
    first, second = letters(chance, story("a")), letters(chance, story("b"))
    said = first[: chance.randint(0, len(first) - 1)]
    continuation = Continuation(Said(said))

    new = [rest for delta in second if (rest := continuation.rest(delta)) is not None]

    whole = Said([*said, *new])
    (message,) = whole.messages.values()
    ids = [call.id[0] for call in message.calls]
    assert message == Message(
        index=0, reasoning="let me think", content="I look twice.", finish_reason="tool_calls",
        calls=[Call(id=f"{ids[0]}0", name="look", arguments='{"at":1}'),
               Call(id=f"{ids[1]}1", name="see", arguments='{"at":22}')],
    )  # fmt: skip
    begun = sum(bool(delta.calls and delta.calls[0].id) for delta in said)
    assert ids == ["a"] * begun + ["b"] * (2 - begun)  # a call keeps the id that the client was told
    assert whole.finished == {0}


@pytest.mark.parametrize(
    ("said", "second"),
    [
        ([MessageDelta(content="Hello wor")], [MessageDelta(content="Hello you")]),
        ([MessageDelta(content="Hello")], [MessageDelta(content="Hell"), MessageDelta(finish_reason="stop")]),
        ([MessageDelta(content="Hello")], [MessageDelta(reasoning="hm")]),
        ([MessageDelta(reasoning="hm")], [MessageDelta(content="Hello")]),
        (story("a")[:3], [*story("b")[:2], MessageDelta(calls=(CallDelta(position=0, id="x", name="smell"),))]),
        (story("a")[:4], [*story("b")[:3], MessageDelta(calls=(CallDelta(position=0, arguments='{"on'),))]),
        (story("a")[:4], [*story("b")[:3], MessageDelta(calls=(CallDelta(position=1, id="x", name="see"),))]),
        (story("a"), [*story("b")[:1], MessageDelta(content="I look twice. And again.")]),
    ],
)
def test_another_answer_is_noticed(said: list[MessageDelta], second: list[MessageDelta]) -> None:
    continuation = Continuation(Said(said))
    with pytest.raises(Diverged):
        list(map(continuation.rest, second))


def test_completions_are_told_apart_and_one_that_had_ended_gives_nothing_new() -> None:
    said = [MessageDelta(index=1, content="b", finish_reason="stop"), MessageDelta(index=0, content="a")]
    continuation = Continuation(Said(said))
    second = [
        MessageDelta(index=0, content="aa"),
        MessageDelta(index=1, content="b"),
        MessageDelta(index=1, finish_reason="stop"),
        MessageDelta(index=2, content="c"),
        MessageDelta(index=0, finish_reason="length"),
    ]
    assert [continuation.rest(delta) for delta in second] == [
        MessageDelta(index=0, content="a"),
        None,
        None,
        MessageDelta(index=2, content="c"),
        MessageDelta(index=0, finish_reason="length"),
    ]


def test_log_probabilities_that_the_client_has_are_left_out() -> None:
    def delta(text: str) -> MessageDelta:
        return MessageDelta(content=text, logprobs=[TokenLogprob(letter, -1.0, [ord(letter)], []) for letter in text])

    continuation = Continuation(Said([delta("ab")]))
    assert [continuation.rest(delta("a")), continuation.rest(delta("bcd"))] == [None, delta("cd")]


@pytest.mark.parametrize(
    ("deltas", "text"),
    [
        ([MessageDelta(content="a"), MessageDelta(content="b")], "ab"),
        ([], None),
        ([MessageDelta(content="a", finish_reason="stop")], None),
        ([MessageDelta(content="a"), MessageDelta(index=1, content="b")], None),
        ([MessageDelta(reasoning="a")], None),
        (story("a")[1:3], None),
    ],
)
def test_only_a_single_text_can_be_given_to_another_model_to_go_on_with(
    deltas: list[MessageDelta], text: str | None
) -> None:
    assert Said(deltas).text == text
