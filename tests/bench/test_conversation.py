"""Conversations: each turn has the server's own answers before it."""

from typing import Any

import pytest

from servery.bench.arrivals import Arrivals
from servery.bench.options import LoadOptions, WorkOptions
from servery.bench.span import Span
from servery.bench.work import traffic
from tests.bench.test_run import CHAT, bench
from tests.scripted_server import CUT, chunk, event, head, stream

ANSWERS = [stream("probe"), stream("one", " more"), stream("two"), stream("three"), stream("four")]


@pytest.mark.parametrize("load", [{"concurrency": 1}, {"arrivals": Arrivals(100.0, 0.0)}])
def test_each_turn_is_asked_with_the_answers_before_it(load: dict[str, Any]) -> None:
    report, server = bench({CHAT: ANSWERS}, requests=3, warmup=0, turns=Span(3, 3), **load)
    asked = [body["messages"] for body in server.bodies(CHAT)[1:]]
    assert [[message["role"] for message in messages] for messages in asked] == [
        ["user"],
        ["user", "assistant", "user"],
        ["user", "assistant", "user", "assistant", "user"],
    ]
    first, second, third = asked
    assert second[:2] == [*first, {"role": "assistant", "content": "one more"}]
    assert third[:4] == [*second, {"role": "assistant", "content": "two"}]
    assert len({message["content"] for message in third if message["role"] == "user"}) == 3
    assert [row["turn"] for row in report.samples] == [1, 2, 3]
    assert {turn: of.n for turn, of in report.summary.ttft_by_turn_ms.items()} == {"1": 1, "2": 1, "3": 1}
    assert report.summary.good == 3


def test_nobody_goes_on_with_an_answer_that_did_not_come_whole() -> None:
    cut = [head(), chunk(event("a")), CUT]
    report, server = bench(
        {CHAT: [stream("probe"), cut, stream("b")]}, requests=5, warmup=0, turns=Span(4, 4), concurrency=1
    )
    assert (report.summary.good, report.summary.errors) == (1, {"cut_short": 1})
    assert "3 turns were not asked: the answer before them did not come whole" in report.notes
    assert len(server.bodies(CHAT)) == 3


def test_turns_together_come_at_the_rate_and_are_as_many_as_asked() -> None:
    work = WorkOptions(prompt_tokens=Span(200, 200), output_tokens=Span(9, 9), turns=Span(2, 6), turn_tokens=Span(7, 7))
    made = traffic(work, LoadOptions(requests=2000, warmup=3, arrivals=Arrivals(8.0)))
    assert len(made) == 2003
    assert [one.session for one in made[:3]] == [None] * 3
    counted = made[3:]
    sessions = [one.session for one in counted]
    lengths = [sessions.count(session) for session in dict.fromkeys(sessions)]
    assert set(lengths[:-1]) == {2, 3, 4, 5, 6}
    starts = [sessions.index(session) for session in dict.fromkeys(sessions)]
    assert {one.input_tokens for at, one in enumerate(counted) if at not in starts} == {7}
    assert {counted[at].input_tokens for at in starts} == {200}
    assert counted[-1].at_s == pytest.approx(2000 / 8, rel=0.15)
    assert traffic(work, LoadOptions(requests=2000, warmup=3, arrivals=Arrivals(8.0))) == made


def test_single_requests_are_what_they_were() -> None:
    """The same seed makes the same requests with and without a word of conversations."""
    plain = WorkOptions(prompt_tokens=Span(10, 90), output_tokens=Span(5, 50))
    made = traffic(plain, LoadOptions(requests=20, warmup=2, arrivals=Arrivals(8.0)))
    assert {one.session for one in made} == {None}
