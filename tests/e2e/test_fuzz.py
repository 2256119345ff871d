"""A short run of the fuzzer; `python -m conformance fuzz` is the long one."""

from pathlib import Path

import pytest

from conformance.__main__ import FUZZED
from conformance.fuzz.campaign import fuzz
from conformance.fuzz.claims import Fault
from conformance.server import serving


@pytest.mark.slow
def test_whatever_is_sent_is_answered_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with serving("amuse", "--files", str(tmp_path), "--threads", "1", *FUZZED) as served:
        try:
            tally = fuzz(served.url, served.pid, first_seed=0, rounds=1, examples=100)
        except Fault as fault:
            pytest.fail(f"{fault}\nThe server said last:\n{''.join(served.said)}")
    assert {200, 400, 404} <= set(tally.statuses)
