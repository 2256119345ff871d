import pytest

from servery.engine.step_cost import StepCost, StepCosts


def test_nothing_is_known_before_the_first_step():
    cost = StepCost()
    assert (cost.budget(0.05), cost.predict(10)) == (None, 0.0)
    cost.observe(0, 1.0)
    cost.observe(10, 0.0)
    assert cost.budget(0.05) is None


def test_both_coefficients_are_learnt_from_steps_of_different_sizes():
    cost = StepCost()
    for tokens in [1, 200, 8, 64, 128] * 4:
        cost.observe(tokens, 0.004 + 0.0001 * tokens)
    assert cost.fixed_s == pytest.approx(0.004)
    assert cost.per_token_s == pytest.approx(0.0001)
    assert cost.predict(100) == pytest.approx(0.014)
    assert cost.budget(0.0241) == 200 + 1
    assert cost.budget(0.001) == 1, "below the fixed cost a step still has a token"


def test_one_size_of_step_is_read_cautiously():
    cost = StepCost()
    cost.observe(4, 0.02)
    assert cost.budget(0.05) == 10


def test_the_slope_survives_a_long_time_of_decoding_only():
    cost = StepCost()
    for tokens in [1, 200, 8, 64, 128] * 4:
        cost.observe(tokens, 0.004 + 0.0001 * tokens)
    for _ in range(2000):
        cost.observe(8, 0.004 + 0.0001 * 8)
    assert cost.per_token_s == pytest.approx(0.0001)
    assert cost.predict(8) == pytest.approx(0.0048)


def test_the_model_follows_a_machine_that_becomes_slower():
    cost = StepCost()
    for tokens in [1, 200, 8, 64, 128] * 40:
        cost.observe(tokens, 0.004 + 0.0001 * tokens)
    for tokens in [1, 200, 8, 64, 128] * 400:
        cost.observe(tokens, 0.008 + 0.0003 * tokens)
    assert cost.per_token_s == pytest.approx(0.0003, rel=0.01)


def test_one_suspended_step_does_not_teach_that_steps_are_slow():
    cost = StepCost()
    for tokens in [1, 200, 8, 64, 128] * 40:
        cost.observe(tokens, 0.004 + 0.0001 * tokens)
    cost.observe(8, 3600.0)
    assert cost.predict(100) < 2 * 0.014


def test_what_compiling_took_is_forgotten_when_steps_turn_out_to_be_quick():
    """The first step of a GPU compiles its kernels for seconds; later ones must not be kept small for that."""
    cost = StepCost()
    cost.observe(8192, 5.0)
    assert cost.budget(1.0) == 1638
    cost.observe(1638, 0.05)
    assert cost.budget(1.0) < 8192, "one alone may have been noticed late"
    cost.observe(1638, 0.05)
    assert cost.predict(1638) == pytest.approx(0.05)
    assert cost.budget(1.0) > 8192


def test_one_step_that_is_noticed_late_changes_little():
    cost = StepCost()
    for tokens in [1, 200, 8, 64, 128] * 40:
        cost.observe(tokens, 0.004 + 0.0001 * tokens)
    cost.observe(8, 1e-6)
    assert cost.predict(100) == pytest.approx(0.014, rel=0.1)


def test_coefficients_are_never_negative():
    cost = StepCost()
    for tokens, seconds in [(1, 0.03), (100, 0.01), (1, 0.03), (100, 0.01)]:
        cost.observe(tokens, seconds)
        assert cost.fixed_s >= 0.0
        assert cost.per_token_s >= 0.0


def test_the_background_does_not_change_what_is_known_of_others():
    costs = StepCosts()
    costs.observe(10, 0.010, is_background=False)
    assert costs.of(is_background=True).predict(10) == 0.010, "nothing better is known yet"
    costs.observe(10, 0.050, is_background=True)
    assert [costs.of(is_background=each).predict(10) for each in (False, True)] == [0.010, 0.050]
