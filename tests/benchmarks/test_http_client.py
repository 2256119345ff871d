"""The comparison runs every client that is there, and reads whole answers."""

import sys

from benchmarks.http_client import compare, interpreters, table


def test_clients_are_compared_with_ours_and_with_none() -> None:
    found = interpreters(sys.executable, None)
    assert {"bare", "servery"} <= set(found)
    clients = {name: found[name] for name in ("bare", "servery")}
    compared = {"once": compare(clients, "once", concurrency=2, seconds=0.1, rounds=1)}
    assert list(compared["once"]) == ["bare", "servery"]
    ours = compared["once"]["servery"]
    assert ours["cpu_beside_servery"] == {"median": 1.0, "min": 1.0, "max": 1.0}
    assert set(ours["runs"][0]) == {"requests_per_s", "cpu_us_per_request", "core_share"}
    assert table(compared).row_count == 2
