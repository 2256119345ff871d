from servery.gateway.dispatch.recent import RecentTimes


def test_a_few_times_tell_nothing_and_many_are_ranked() -> None:
    times = RecentTimes()
    for at in range(19):
        times.add(float(at))
    assert times.quantile(0.5) is None
    times.add(19.0)
    assert (times.quantile(0.5), times.quantile(0.95), times.quantile(0.999)) == (10.0, 19.0, 19.0)


def test_old_times_are_forgotten() -> None:
    times = RecentTimes()
    for at in range(1000):
        times.add(float(at))
    assert times.quantile(0.5) == 900.0
