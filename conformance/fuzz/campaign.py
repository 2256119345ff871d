"""Fuzz a server for a while: rounds of examples, each of a few requests at the same time."""

import asyncio
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky

from conformance.fuzz.claims import Fault, check
from conformance.fuzz.exchange import Answer, Sending, exchange
from conformance.fuzz.sendings import sendings
from conformance.fuzz.server_state import check_health, settle, wait_state

_EXAMPLES = 200  # of a round
_AT_A_TIME = 16
# So long a client waits for the end of its answer. Some requests ask for as much as the context holds; many clients that
# give up in the middle are part of the test.
_PATIENCE_S = 1.0


@dataclass(slots=True)
class Tally:
    """What was sent and came back: requests by status (0: none was waited for), rounds and seconds."""

    statuses: Counter[int] = field(default_factory=Counter)
    rounds: int = 0
    took_s: float = 0.0

    def __str__(self) -> str:
        sent = sum(self.statuses.values())
        statuses = ", ".join(f"{status or 'no answer'}: {count}" for status, count in sorted(self.statuses.items()))
        return f"{sent} requests in {self.took_s:.0f} s and {self.rounds} rounds ({statuses})"


def fuzz(
    url: str,
    pid: int,
    *,
    first_seed: int,
    seconds: float = math.inf,
    rounds: float = math.inf,
    examples: int = _EXAMPLES,
) -> Tally:
    """Send requests for about so long, or so many rounds of `examples`; `pid` is the server's process.

    Without `seconds` the same requests are sent however fast the machine is. Raises `Fault`, with the smallest requests
    found.

    After each round the server must come to rest: nothing runs, waits or is held, no connection is left, and the engine
    has neither failed nor been replaced.
    """
    tally, began_s = Tally(), time.monotonic()
    deadline = began_s + seconds
    before = wait_state(url, pid)
    while time.monotonic() < deadline and tally.rounds < rounds:
        _round(url, first_seed + tally.rounds, deadline, tally, examples)
        tally.rounds += 1
        settle(url, pid, before)
    tally.took_s = time.monotonic() - began_s
    return tally


def _round(url: str, number: int, deadline: float, tally: Tally, examples: int) -> None:
    """One run of hypothesis, which looks for the smallest example of a fault."""

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
    )
    @given(st.lists(sendings(), min_size=1, max_size=_AT_A_TIME))
    def every_answer_is_understood(batch: list[Sending]) -> None:
        if time.monotonic() >= deadline:
            return
        try:
            tally.statuses.update(answer.status for answer in asyncio.run(_send(url, batch)))
            check_health(url)
        except Fault as fault:
            found.append(f"{fault}\nafter these, sent at the same time:\n" + "\n".join(map(str, batch)))
            raise

    found: list[str] = []
    try:
        every_answer_is_understood()
    except (Fault, Flaky) as error:  # Flaky: it depends on more than what is sent, on time for one
        raise Fault(found[-1]) from error


async def _send(url: str, batch: list[Sending]) -> list[Answer]:
    """All at once; raises `Fault`."""
    address = urlsplit(url)
    host, port = address.hostname or "", address.port or 80
    waiting = (exchange(host, port, sending, _PATIENCE_S) for sending in batch)
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    for sending, answer in zip(batch, answers, strict=True):
        if isinstance(answer, httptools.HttpParserError):
            raise Fault(f"what came back is no HTTP: {answer}")
        if isinstance(answer, BaseException):
            raise answer
        check(sending, answer)
    return [answer for answer in answers if isinstance(answer, Answer)]
