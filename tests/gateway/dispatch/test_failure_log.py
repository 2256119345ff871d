"""What the log says of deployments that failed."""

import logging

import pytest

from servery.config.types import Retry
from servery.gateway.dispatch.failure_log import QUIET_S, FailureLog
from servery.upstream.failure import Kind, UpstreamFailure
from servery.upstream.openai.errors import refused
from servery.upstream.refusal import not_an_api
from tests.gateway.scripted import Scripted, Stage, piece
from tests.gateway.virtual_time import run

RESET = UpstreamFailure(Kind.RESET, "http://10.0.0.5:8000 closed the connection\x1b[2J\nwithout an answer.")
NOT_AN_API = "it gave 'text/html' instead of 'application/json', which is not an API's answer"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]


def test_each_attempt_that_failed_is_told_with_its_deployment_reason_and_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story() -> None:
        stage = Stage({"a": Scripted((RESET,)), "b": Scripted((piece("b"),))}, model={"retry": Retry(base_s=0.0)})
        assert (await stage.ask()).status == 200

    run(story)
    told = "attempt at a failed: reset: [address] closed the connection?[2J without an answer. request=req"
    assert lines(caplog) == [told]


def test_failures_alike_are_counted_and_others_told(caplog: pytest.LogCaptureFixture) -> None:
    book, cut = FailureLog("a"), UpstreamFailure(Kind.CUT, "cut")
    for now in (0.0, 1.0, QUIET_S - 0.1):
        book.tell(RESET, f"r{now:g}", now)
    book.tell(cut, "other", 2.0)
    book.tell(RESET, "late", QUIET_S)
    assert [line.rpartition(" request=")[2] for line in lines(caplog)] == [
        "r0", "other", "late (2 more like it since the last line)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("failure", "logged"),
    [
        (
            not_an_api(
                "a", "text/html", "application/json", b"<!doctype html><html><title>Sign in</title><body>a secret"
            ),
            f"{NOT_AN_API}: <!doctype html><html><title>Sign in</title>",
        ),
        (not_an_api("a", "text/html", "application/json", b"said: a secret"), NOT_AN_API),
        (
            refused(
                500, {}, b'{"error": {"message": "on a secret", "code": "out_of_memory", "type": "server_error"}}', "a"
            ),
            "it answered 500 (code out_of_memory, type server_error)",
        ),
        (
            refused(502, {}, b"<html><title>502 Bad Gateway</title><body>a secret", "a"),
            "it answered 502: <html><title>502 Bad Gateway</title>",
        ),
    ],
)
def test_the_reason_has_no_words_that_may_be_a_client_s(failure: UpstreamFailure, logged: str) -> None:
    assert failure.logged == logged


def test_a_client_is_told_that_it_was_no_api_which_answered() -> None:
    error = not_an_api("a", "text/html", "application/json", b"<html>").error
    told = "The deployment 'a' answered with a page of HTML, which is not an API's answer; its operator has to look."
    assert (error.status, error.message) == (502, told)
