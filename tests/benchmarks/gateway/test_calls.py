from benchmarks.gateway.calls import by_room, per_request


def test_what_runs_by_the_clock_is_no_part_of_a_request() -> None:
    counts = {"servery/server/app.py:App.answer": 199, "servery/http/timer_wheel.py:TimerWheel.advance": 40}
    assert per_request(counts, 100) == {"servery/server/app.py:App.answer": 2}


def test_a_call_of_c_counts_where_it_is_made() -> None:
    calls = {
        "servery/server/app.py:App.answer": 2,
        "servery/server/app.py:App.answer -> monotonic": 1,
        "servery/gateway/admit/shed.py:shed": 1,
        "/usr/lib/python3.11/_weakrefset.py:WeakSet.add": 1,
    }
    assert by_room(calls) == {"servery/server": 3, "servery/gateway/admit": 1, "others": 1}
