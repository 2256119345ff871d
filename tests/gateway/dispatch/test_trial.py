"""What is too slow is tried again: at once while it is in time, ever more rarely while it is not."""

from servery.gateway.dispatch.trial import Trial


def test_trials_that_are_late_become_rare_and_one_in_time_makes_the_next_due() -> None:
    trial, now_s, pauses = Trial(), 100.0, []
    assert trial.is_due(now_s)
    for _ in range(9):
        trial.learn(now_s, is_in_time=False)
        begun_s = now_s
        while not trial.is_due(now_s):
            now_s += 1.0
        pauses.append(now_s - begun_s)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    trial.learn(now_s, is_in_time=False)
    trial.learn(now_s, is_in_time=True)
    assert trial.is_due(now_s)
    trial.learn(now_s, is_in_time=False)
    assert (trial.is_due(now_s), trial.is_due(now_s + 1)) == (False, True)
