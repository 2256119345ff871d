"""Requests that two servers could read differently: each is refused, or read in the one way that RFC 9112 allows."""

import asyncio

import pytest

from tests.server.test_protocol import answer, with_connection

_POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
_SMUGGLED = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(_POST + b"content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nG", id="CL.TE"),
        pytest.param(_POST + b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\nG", id="TE.CL"),
        pytest.param(_POST + b"content-length: 4\r\ncontent-length: 5\r\n\r\nabcd", id="two lengths"),
        pytest.param(_POST + b"content-length: 4\r\ncontent-length: 4\r\n\r\nabcd", id="one length twice"),
        pytest.param(_POST + b"content-length: 4, 4\r\n\r\nabcd", id="a list of lengths"),
        pytest.param(_POST + b"content-length: -1\r\n\r\n", id="a negative length"),
        pytest.param(_POST + b"content-length: +4\r\n\r\nabcd", id="a signed length"),
        pytest.param(_POST + b"content-length: 0x4\r\n\r\nabcd", id="a hexadecimal length"),
        pytest.param(_POST + b"content-length: 99999999999999999999\r\n\r\n", id="a length beyond 64 bits"),
        pytest.param(_POST + b"content-length : 4\r\n\r\nabcd", id="a space before the colon"),
        pytest.param(_POST + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n", id="a space before the coding's colon"),
        pytest.param(_POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", id="an unknown coding"),
        pytest.param(_POST + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n", id="chunked is not last"),
        pytest.param(_POST + b"transfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n", id="a control character"),
        pytest.param(_POST + b"transfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n", id="a chunk size of letters"),
        pytest.param(_POST + b"transfer-encoding: chunked\r\n\r\n-1\r\n\r\n", id="a negative chunk size"),
        pytest.param(_POST + b"transfer-encoding: chunked\r\n\r\n11111111111111111\r\n", id="a chunk beyond 64 bits"),
        pytest.param(
            _POST + b"transfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", id="a chunk longer than it says"
        ),
        pytest.param(b"POST / HTTP/1.1\r\nhost: a\r\nhost: b\r\ncontent-length: 0\r\n\r\n", id="two hosts"),
        pytest.param(_POST + b"authorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n", id="two keys"),
        pytest.param(_POST + b"x-api-key: a\r\nX-Api-Key: a\r\n\r\n", id="one key twice"),
        pytest.param(_POST + b" folded: x\r\n\r\n", id="a folded line"),
        pytest.param(_POST + b"x: a\0b\r\n\r\n", id="a zero byte"),
        pytest.param(_POST + b"x: a\rb: c\r\n\r\n", id="a bare CR"),
        pytest.param(b"POST / HTTP/1.1 \r\nhost: x\r\n\r\n", id="a space behind the version"),
        pytest.param(b"POST / HTTP/9.9\r\nhost: x\r\n\r\n", id="a version that is none"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(b"GET http:///x y HTTP/1.1\r\nhost: x\r\n\r\n", id="a space in the target"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", id="TLS"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_a_request(sent: bytes) -> None:
    async def story(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(sent + _SMUGGLED)
        assert (await answer(reader))[0] == 400

    with_connection(story)


def test_what_a_closing_request_is_followed_by_is_no_request() -> None:
    async def story(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" + _SMUGGLED)
        assert (await reader.read()).count(b"HTTP/1.1 ") == 1

    with_connection(story)


def test_garbage_behind_a_request_does_not_break_into_its_answer() -> None:
    async def story(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_SMUGGLED + b"GARBAGE\r\n\r\n")
        said = await reader.read()
        assert said.startswith(b"HTTP/1.1 200 ")
        assert said.count(b"HTTP/1.1 ") == 1

    with_connection(story)


def test_requests_sent_ahead_are_answered_in_their_order() -> None:
    async def story(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        last = b"GET /ping HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        writer.write(_SMUGGLED + b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n" + last)
        said = await reader.read()
        assert [each[:3] for each in said.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200"]

    with_connection(story)


def test_more_requests_ahead_than_are_kept_end_the_connection_after_the_first() -> None:
    async def story(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_SMUGGLED * 100)
        assert (await reader.read()).count(b"HTTP/1.1 ") == 1

    with_connection(story)


def test_a_request_that_asks_for_another_protocol_is_answered_in_this_one() -> None:
    async def story(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n" + _SMUGGLED)
        said = await reader.read()
        assert said.startswith(b"HTTP/1.1 200 ")
        assert said.count(b"HTTP/1.1 ") == 1

    with_connection(story)


def test_a_client_of_http_1_0_gets_no_chunks_and_its_connection_ends() -> None:
    async def story(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET /health HTTP/1.0\r\nconnection: keep-alive\r\n\r\n" + _SMUGGLED)
        said = await reader.read()
        assert said.count(b"HTTP/1.1 ") == 1
        assert b"connection: close" in said

    with_connection(story)


def test_a_client_that_waits_for_a_word_is_told_to_go_on() -> None:
    async def story(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_POST + b"content-type: application/json\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"{}")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 400 ")

    with_connection(story)
