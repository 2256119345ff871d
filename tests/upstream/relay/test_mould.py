"""Events that are known by what stands around their text are passed on as if each had been looked at."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.upstream.failure import UpstreamFailure
from servery.upstream.relay import stream as relay_stream
from servery.upstream.relay.mould import Mould
from servery.upstream.relay.stream import RelayedStream
from servery.upstream.relay.watches import NO_USAGE, ChatWatch
from servery.wire.errors import ApiError

BEFORE = b'data: {"id":"x","model":"theirs","choices":[{"index":0,"delta":{"content":"'
BEHIND = b'"},"finish_reason":null}],"usage":null}\n\n'
SHOWN = b'data: {"id":"x","model":"mine","choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n'


def shown(data: bytes) -> bytes:
    return data.replace(b'"model":"theirs"', b'"model":"mine"').replace(b',"usage":null', b"")


def mould() -> Mould:
    found = Mould.of(BEFORE + b"a" + BEHIND, shown, 1)
    assert found is not None
    return found


def test_one_or_more_events_that_are_alike_are_known() -> None:
    words = [b" one", "zwölf".encode(), b"\\n", b""]
    events = [BEFORE + word + BEHIND for word in words]
    assert [mould().read(event) for event in events] == [(SHOWN % word, 1) for word in words]
    assert mould().read(b"".join(events)) == (b"".join(SHOWN % word for word in words), 4)


@pytest.mark.parametrize(
    "data",
    [
        BEFORE + b'\\"' + BEHIND,
        BEFORE + b'","refusal":"no' + BEHIND,
        BEFORE + b"a\nb" + BEHIND,
        BEFORE + b"a\r" + BEHIND,
        BEFORE + b"a" + BEHIND.replace(b"null", b'"stop"', 1),
        BEFORE + b"a" + BEHIND + b": ka\n\n" + BEFORE + b"a" + BEHIND,
        BEFORE + b"a" + BEHIND + b"data: [DONE]\n\n",
        BEFORE + b"a" + BEHIND[:-1],
        BEFORE[:-5] + BEHIND,
        BEFORE + BEHIND[1:],
    ],
)
def test_whatever_else_there_is_has_to_be_looked_at(data: bytes) -> None:
    assert mould().read(data) is None


def test_there_is_none_of_events_that_would_not_be_shown_alike() -> None:
    assert Mould.of(b'data: {"choices":[]}\n\n', shown, 1) is None
    assert Mould.of(b'data: {"text":"\\u0041"}\n\n', shown, 1) is None
    assert Mould.of(BEFORE + b"a" + BEHIND, lambda data: data.replace(b'"a"', b'"b"'), 1) is None


TEXTS = st.text(alphabet='ab"\\\n\r:,{} é', max_size=6)
ODD = st.sampled_from(
    [
        *[b": ka\n\n", b"data: [DONE]\n\n", b"\n", b'data: {"error":{"message":"no"}}\n\n', b"data: {\n\n"],
        BEFORE + b"a" + BEHIND.replace(b"null", b'"stop"', 1),
        BEFORE.replace(b"delta", b'delta":{"role":"assistant"},"x') + b"a" + BEHIND,
        (BEFORE + b"a" + BEHIND).replace(b'"content"', b'"reasoning"'),
        (BEFORE + b"a" + BEHIND).replace(b"\n", b"\r\n"),
        BEFORE + b'","finish_reason":"' + BEHIND,
    ]
)


def _escaped(text: str) -> bytes:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r").encode()


WORDS = TEXTS.map(lambda text: BEFORE + _escaped(text) + BEHIND) | TEXTS.map(
    lambda text: BEFORE + text.encode() + BEHIND
)


@given(st.lists(WORDS | ODD, max_size=8), st.lists(st.integers(1, 400), max_size=8), st.booleans())
def test_a_stream_is_passed_on_as_if_every_event_were_looked_at(
    events: list[bytes], sizes: list[int], by_event: bool
) -> None:
    data, pieces = b"".join(events), [] if not by_event else events
    for size in sizes if not by_event else ():
        pieces, data = [*pieces, data[:size]], data[size:]
    pieces = pieces if by_event else [*pieces, data]
    first = BEFORE + b"word" + BEHIND
    assert told([first, *pieces]) == told([first, *pieces], moulds=0)


def told(pieces: list[bytes], moulds: int = relay_stream._MOST_MOULDS) -> tuple[bytes, list[int], str]:
    """What the client reads, the tokens piece by piece, and what broke it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay_stream, "_MOST_MOULDS", moulds)
        reader, data, tokens = RelayedStream("d", ChatWatch("d", 1, hides_usage=True), "mine", NO_USAGE), b"", []
        try:
            for piece in filter(None, pieces):
                chunks = reader.feed(piece)
                data += b"".join(chunk.data for chunk in chunks)
                tokens.append(sum(chunk.tokens for chunk in chunks))
            reader.end()
        except (ApiError, UpstreamFailure) as error:
            return data, tokens, str(error)
        return data, tokens, ""
