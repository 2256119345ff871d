from benchmarks.gateway.calls import by_room, per_request


def test_what_runs_by_the_clock_is_no_part_of_a_request() -> None:
    counts = {"servery/server/app.py:App.answer": 200, "servery/http/timer_wheel.py:TimerWheel.advance": 99}
    assert per_request(counts, 100) == {"servery/server/app.py:App.answer": 2.0}


def test_a_call_of_c_counts_where_it_is_made() -> None:
    calls = {
        "servery/server/app.py:App.answer": 2.0,
        "servery/server/app.py:App.answer -> monotonic": 1.0,
        "servery/gateway/admit/shed.py:shed": 1.0,
        "/usr/lib/python3.11/_weakrefset.py:WeakSet.add": 1.0,
    }
    assert by_room(calls) == {"servery/server": 3.0, "servery/gateway/admit": 1.0, "others": 1.0}
