"""What was passed on is read again, and gone on with in the same words."""

import pytest

from servery.upstream.ask import Api
from servery.upstream.relay.heard import heard
from servery.wire.anthropic_answer import AnthropicForm
from servery.wire.chat_answer import ChatForm
from servery.wire.message import CallDelta, Message, MessageDelta
from servery.wire.usage import Usage
from tests.upstream.elsewhere import ask

USAGE = Usage.of(9, 0, 4)
BEGUN = [
    MessageDelta(reasoning="hm"),
    MessageDelta(content="It "),
    MessageDelta(content="was"),
    MessageDelta(calls=(CallDelta(position=0, id="toolu_1", name="look"),)),
    MessageDelta(calls=(CallDelta(position=0, arguments='{"at":'),)),
]
FOREIGN = b"""data: {"type":"message_start","message":{"id":"m"}}

data: {"type":"content_block_start","content_block":{"type":"server_tool_use"}}

"""
REST = [MessageDelta(calls=(CallDelta(position=0, arguments="1}"),)), MessageDelta(finish_reason="tool_calls")]


@pytest.mark.parametrize("count", range(1, len(BEGUN) + 1))
@pytest.mark.parametrize("api", [Api.CHAT, Api.MESSAGES])
def test_an_answer_goes_on_in_the_same_words_wherever_it_was_cut(api: Api, count: int) -> None:
    """The rest is the one that the form of whoever began it would have written."""
    form = ChatForm("theirs", 77, "mine") if api is Api.CHAT else AnthropicForm("theirs", "mine", 50)
    data = form.start(USAGE) + b"".join(map(form.delta, BEGUN[:count]))
    found = heard(ask(api, stream=True), data)

    assert found is not None
    said, told = Message(index=0, calls=[]), Message(index=0, calls=[])
    for delta in found.deltas:
        said.add(delta)
    for delta in BEGUN[:count]:
        told.add(delta)
    assert said == told
    rest = [*BEGUN[count:], *REST]
    assert b"".join(map(found.form.delta, rest)) == b"".join(map(form.delta, rest))
    assert found.form.end(USAGE) == form.end(USAGE)


@pytest.mark.parametrize(
    ("api", "data"),
    [
        (Api.CHAT, b""),
        (Api.CHAT, b"data: {\n\n"),
        (Api.MESSAGES, b'data: {"type":"ping"}\n\n'),
        (Api.RESPONSES, b'data: {"type":"response.created"}\n\n'),
        (Api.MESSAGES, FOREIGN),
    ],
)
def test_what_cannot_be_gone_on_with_is_nothing(api: Api, data: bytes) -> None:
    assert heard(ask(api, stream=True), data) is None
