"""The fuzzer's claims: what it lets pass and what it calls a fault."""

import json
from typing import Any

import pytest

from conformance.fuzz.claims import Fault, check
from conformance.fuzz.exchange import Answer, Manners, Sending
from conformance.fuzz.server_state import ServerState

OPENAI = {"error": {"message": "m", "type": "t", "param": None, "code": "c"}}
ANTHROPIC = {"type": "error", "error": {"type": "invalid_request_error", "message": "m"}, "request_id": "r"}


def sending(target: str = "/v1/completions", method: str = "POST") -> Sending:
    return Sending(method=method, target=target, headers=(("a", "b"),), body=b"xyz", manners=Manners.WAITS)


def answer(status: int, body: Any, kind: str = "application/json", *, is_complete: bool = True) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, {"content-type": kind}, data, is_complete)


def test_a_request_goes_over_the_line_as_it_is() -> None:
    assert sending().data == b"POST /v1/completions HTTP/1.1\r\nhost: fuzz\r\nconnection: close\r\na: b\r\n\r\nxyz"
    assert "POST /v1/completions (sends everything" in str(sending())


@pytest.mark.parametrize(
    ("to", "given"),
    [
        (sending(), answer(200, {})),
        (sending(), answer(400, OPENAI)),
        (sending(), answer(200, b'data: {}\n\ndata: [DONE]\n\n', "text/event-stream")),
        (sending(), answer(200, b"data: " + json.dumps(OPENAI).encode() + b"\n\n", "text/event-stream", is_complete=False)),
        (sending("/v1/messages?beta=true"), answer(400, ANTHROPIC)),
        (sending("/generate"), answer(422, {"error": "no", "error_type": "validation"})),
        (sending("/v1/messages"), answer(431, {"error": {**OPENAI["error"], "code": "head_too_large"}})),
        (sending("/dashboard?limit=2", "GET"), answer(200, b"<!doctype html>", "text/html; charset=utf-8")),
        (sending("/dashboard/static/a.js", "GET"), answer(200, b"1", "text/javascript; charset=utf-8")),
        (sending("/dashboard/", "GET"), answer(308, b"", "text/html")),
        (sending(method="HEAD"), answer(404, b"")),
        (sending(), Answer(is_awaited=False)),
        (sending(), Answer(200, {}, b"half", is_awaited=False)),
    ],
)  # fmt: skip
def test_an_answer_that_a_client_understands_passes(to: Sending, given: Answer) -> None:
    check(to, given)


@pytest.mark.parametrize(
    ("to", "given", "message"),
    [
        (sending(), Answer(), "closed without an answer"),
        (sending(), answer(500, OPENAI), "status 500"),
        (sending(), answer(200, {}, is_complete=False), "broke off"),
        (sending(), answer(200, b"data: {}\n\n", "text/event-stream", is_complete=False), "broke off"),
        (sending(), answer(200, b"{", "application/json"), "no JSON"),
        (sending(), answer(200, b"", "text/html"), "an answer of the type 'text/html'"),
        (sending("/dashboard/api/feed", "GET"), answer(200, b"", "text/html"), "an answer of the type 'text/html'"),
        (sending("/v1/models/", "GET"), answer(308, b""), "status 308"),
        (sending(), answer(400, b"no", "text/plain"), "an error of the type 'text/plain'"),
        (sending(), answer(400, {"detail": "no"}), "no error that a client can read"),
        (sending(), answer(400, {"error": {"message": "m"}}), "an error with other fields"),
        (sending("/generate"), answer(422, {"error": "no"}), "an error with other fields"),
        (sending("/v1/completions"), answer(422, {"error": "no", "error_type": "validation"}), "no error that a client"),
        (sending("/v1/messages"), answer(400, OPENAI), "an error of another API"),
        (sending(), answer(503, {"error": {**OPENAI["error"], "code": "internal_error"}}), "a failure of the server"),
        (sending(), answer(200, b'data: {"error": {"code": "internal_error"}}\n\n', "text/event-stream"), "told of a fail"),
    ],
)  # fmt: skip
def test_anything_else_is_a_fault(to: Sending, given: Answer, message: str) -> None:
    with pytest.raises(Fault, match=message):
        check(to, given)


def test_a_server_at_rest_is_as_it_was() -> None:
    before = ServerState(0, 0, 0, 100, 0, 0, 7)
    assert before.faults(before) == []
    assert ServerState(0, 0, 0, 100, 0, 0, 5).faults(before) == []
    assert ServerState(1, 2, 3, 99, 1, 1, 9).faults(before) == [
        "1 requests still run",
        "2 requests still wait",
        "3 blocks are still held",
        "1 blocks were lost or invented",
        "1 steps failed",
        "1 times the engine died or hung",
        "2 connections are still open",
    ]
