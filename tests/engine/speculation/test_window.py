"""On modelled machines and texts: windows are those that pay, and where none pays the loss is small."""

from random import Random

import pytest

from servery.engine.speculation.proposer import DraftCost
from servery.engine.speculation.window import Candidate, Outcome, WindowPolicy

FREE = DraftCost(0.0, 0.0)


class Machine:
    """Takes `fixed + per_row * (sequences + drafts)`, and `first` more if there are drafts; a draft stands by chance."""

    def __init__(self, first: float, per_draft: float, acceptance: list[float], drafting: DraftCost = FREE) -> None:
        self.first, self.per_draft, self.acceptance, self.drafting = first, per_draft, acceptance, drafting
        self.seconds = self.tokens = 0.0
        self.with_drafts = 0
        self._chance = Random(3)

    def plain_s(self) -> float:
        return 1.0 + 0.02 * len(self.acceptance)

    def step(self, windows: list[int]) -> tuple[int, int, float, float]:
        """Tokens, drafts, seconds of the step and of drafting."""
        noise, count = self._chance.uniform(0.97, 1.03), len(self.acceptance)
        drafts, depth = sum(windows), max(windows, default=0)
        step_s = noise * (self.plain_s() + (self.first if drafts else 0.0) + self.per_draft * drafts)
        drafting_s = sum(
            self.drafting.fixed_s + self.drafting.per_row_s * sum(window > at for window in windows)
            for at in range(depth)
        )
        tokens = count + sum(self._stood(window, a) for window, a in zip(windows, self.acceptance, strict=True))
        self.seconds += step_s + drafting_s
        self.tokens += tokens
        self.with_drafts += drafts > 0
        return tokens, drafts, step_s, drafting_s

    def _stood(self, window: int, acceptance: float) -> int:
        return next((at for at in range(window) if self._chance.random() >= acceptance), window)

    @property
    def gain(self) -> float:
        """Tokens per second over those of the same machine without drafts."""
        return self.tokens / self.seconds * self.plain_s() / len(self.acceptance)


def run(machine: Machine, steps: int = 3000, max_drafts: int = 8) -> list[list[int]]:
    """The windows of every step; candidates are known as well as the machine knows them itself."""
    policy, chosen = WindowPolicy(max_drafts), []
    count = len(machine.acceptance)
    candidates = [Candidate(a, max_drafts) for a in machine.acceptance]
    for _ in range(steps):
        windows = [0] * count
        if policy.is_trial_due():
            windows = policy.trial(candidates)
        elif not policy.is_hopeless(count, max(machine.acceptance), machine.drafting):
            windows = policy.choose(count, candidates, machine.drafting).windows
        tokens, drafts, step_s, drafting_s = machine.step(windows)
        policy.observe(Outcome(count, drafts, tokens, step_s, drafting_s, is_drafted=drafts > 0))
        chosen.append(windows)
    return chosen


@pytest.mark.parametrize("count", [1, 4, 64])
@pytest.mark.parametrize("acceptance", [0.0, 0.6, 0.9])
@pytest.mark.parametrize("first", [0.0, 0.5])
@pytest.mark.parametrize("per_draft", [0.0, 0.02, 0.2, 1.0])
@pytest.mark.parametrize("drafting", [FREE, DraftCost(0.1, 0.001), DraftCost(0.8, 0.01)], ids=["free", "cheap", "dear"])
def test_it_is_never_slower_than_without(count, acceptance, first, per_draft, drafting):
    machine = Machine(first, per_draft, [acceptance] * count, drafting)
    run(machine, steps=400)
    assert machine.gain > 0.965


def test_cheap_drafts_that_stand_are_taken_as_far_as_they_may():
    windows = run(Machine(0.1, 0.01, [0.95]))
    assert [windows[-2], sum(window == [8] for window in windows[-100:]) > 90] == [[8], True]


def test_the_best_window_of_a_known_machine_is_found():
    """Of all windows from 0 to 8, the one with the most tokens per second, or one nearly as good."""
    for acceptance in (0.5, 0.7, 0.85):
        machine = Machine(0.1, 0.12, [acceptance], DraftCost(0.1, 0.0))
        rates = [
            sum(acceptance**at for at in range(k + 1)) / (machine.plain_s() + (0.1 if k else 0) + 0.22 * k)
            for k in range(9)
        ]
        window = run(machine)[-2][0]
        assert rates[window] > 0.97 * max(rates)


def test_each_sequence_gets_the_window_that_its_own_drafts_are_worth():
    *_, windows = run(Machine(0.1, 0.1, [0.95, 0.95, 0.6, 0.05]), steps=300)
    assert windows[0] == windows[1] > windows[2] > windows[3] == 0


def test_where_drafts_never_pay_trials_are_rare():
    machine = Machine(0.5, 1.0, [0.3] * 4)
    run(machine, steps=10_000)
    assert machine.with_drafts < 60
    assert machine.gain > 0.985


def test_drafts_that_begin_to_pay_are_noticed():
    machine = Machine(0.1, 0.05, [0.02])
    policy = WindowPolicy(4)
    for step in range(3000):
        acceptance = 0.02 if step < 1500 else 0.9
        machine.acceptance = [acceptance]
        candidates = [Candidate(acceptance, 4)]
        windows = [0]
        if policy.is_trial_due():
            windows = policy.trial(candidates)
        elif not policy.is_hopeless(1, acceptance, FREE):
            windows = policy.choose(1, candidates, FREE).windows
        if step == 1499:
            before = machine.with_drafts
        policy.observe(_outcome(1, machine.step(windows)))
    assert before < 60
    assert machine.with_drafts > 1200


def _outcome(count: int, step: tuple[int, int, float, float]) -> Outcome:
    tokens, drafts, step_s, drafting_s = step
    return Outcome(count, drafts, tokens, step_s, drafting_s, is_drafted=drafts > 0)


def test_a_wrong_idea_of_what_is_accepted_costs_little():
    """Candidates are said to be at 0.95, but nothing ever stands: the budget stops what does not pay."""
    machine, policy = Machine(0.2, 0.3, [0.0] * 2), WindowPolicy(4)
    candidates = [Candidate(0.95, 4)] * 2
    for _ in range(5000):
        windows = [0, 0]
        if policy.is_trial_due():
            windows = policy.trial(candidates)
        elif not policy.is_hopeless(2, 0.95, FREE):
            windows = policy.choose(2, candidates, FREE).windows
        policy.observe(_outcome(2, machine.step(windows)))
    assert machine.gain > 0.97


def test_what_has_to_be_computed_first_must_pay_off_too():
    policy = WindowPolicy(4)
    for _ in range(20):
        policy.observe(Outcome(1, 0, 1, 1.0, 0.0, is_drafted=False))
    for _ in range(5):
        policy.observe(Outcome(1, 4, 5, 1.2, 0.0, is_drafted=True))
    near, far = Candidate(0.7, 4, 0.1), Candidate(0.7, 4, 20.0)
    assert policy.choose(1, [near], FREE, 10.0).windows[0] > 0
    assert policy.choose(1, [far], FREE, 10_000.0).windows[0] > 0
    assert policy.choose(1, [far], FREE, 10.0).windows == [0]
    assert policy.trial([far]) == [0]


def test_looking_in_vain_is_done_seldom_where_it_takes_long():
    policy, looks = WindowPolicy(4), 0
    for _ in range(300):
        windows = [0]
        if policy.is_trial_due():
            windows = policy.trial([Candidate(0.9, 4)])
        is_looking = not policy.is_hopeless(1, 0.9, FREE)
        looks += is_looking
        drafts = sum(windows)
        policy.observe(Outcome(1, drafts, 1 + drafts, 1.0, 0.02 if is_looking else 0.0, is_drafted=drafts > 0))
    assert 40 < looks < 70, "a fiftieth of a step each: one step in six"


def test_what_is_to_spare_goes_to_the_first_drafts_of_all():
    policy = WindowPolicy(4)
    for _ in range(20):
        policy.observe(Outcome(3, 0, 3, 1.0, 0.0, is_drafted=False))
    for _ in range(5):
        policy.observe(Outcome(3, 12, 12, 1.1, 0.0, is_drafted=True))
    candidates = [Candidate(0.95, 4)] * 3
    assert policy.choose(3, candidates, FREE, spare_tokens=99).windows == [4, 4, 4]
    assert policy.choose(3, candidates, FREE, spare_tokens=5).windows == [2, 2, 1]
    assert policy.choose(3, candidates, FREE, spare_tokens=0).windows == [0, 0, 0]
    assert sum(policy.trial(candidates, 1)) <= 1


def known_policy(max_drafts: int = 8) -> WindowPolicy:
    """One step takes 1 s; each draft in it 0.01 s more."""
    policy = WindowPolicy(max_drafts)
    for _ in range(20):
        policy.observe(Outcome(1, 0, 1, 1.0, 0.0))
    for _ in range(20):
        policy.observe(Outcome(1, 4, 5, 1.04, 0.0, is_drafted=True))
    return policy


def test_where_drafting_stops_early_long_windows_cost_only_as_often_as_they_are_reached():
    policy, candidates = known_policy(), [Candidate(0.8, 8)]
    to_the_end, stopping = DraftCost(0.4, 0.0), DraftCost(0.4, 0.0, stops_early=True)
    assert policy.choose(1, candidates, stopping).windows == [8]
    assert policy.choose(1, candidates, to_the_end).windows[0] < 4
    assert policy.choose(1, candidates, stopping).tokens_per_s > policy.choose(1, candidates, to_the_end).tokens_per_s


def test_a_step_in_which_nothing_was_worth_verifying_has_cost_the_drafting():
    policy = known_policy()
    for _ in range(40):
        policy.observe(Outcome(1, 0, 1, 1.0, 0.4, is_drafted=True))
    assert policy.is_hopeless(1, 0.98, DraftCost(0.1, 0.0))


def test_drafts_that_lose_while_others_prefill_are_noticed_too():
    """A step with 100 tokens of prefill takes 2 s; drafts that never stand add a second."""
    policy = known_policy()
    for _ in range(20):
        policy.observe(Outcome(1, 0, 1, 2.0, 0.0, 100))
    assert not policy.is_hopeless(1, 0.98, FREE)
    for _ in range(20):
        policy.observe(Outcome(1, 8, 1, 2.5, 0.5, 100, is_drafted=True))
    assert policy.is_hopeless(1, 0.98, FREE)


def test_what_it_takes_to_begin_is_charged_to_the_steps_after():
    policy = known_policy()
    policy.observe(Outcome(1, 4, 5, 1.04, 20.0, is_drafted=True, entry_s=20.0))
    assert not policy.is_hopeless(1, 0.98, FREE), "five tokens in a step are worth more than a tenth of it"
    for _ in range(20):
        policy.observe(Outcome(1, 4, 1, 1.04, 0.0, is_drafted=True))
    assert policy.is_hopeless(1, 0.98, FREE), "but not if no draft stands"


def test_steps_right_after_drafts_do_not_say_what_a_step_without_takes():
    """The drafter has had the processor's caches: such a step is slow, and drafts would seem to save more."""
    policy = known_policy()
    for _ in range(300):
        is_control = policy.is_hopeless(1, 0.98, FREE)
        if is_control:
            policy.observe(Outcome(1, 0, 1, 3.0 if policy._steps_without < 2 else 1.0, 0.0))
        else:
            policy.observe(Outcome(1, 4, 5, 1.04, 0.0, is_drafted=True))
    assert policy.plain.predict(1) == pytest.approx(1.0)


def test_now_and_then_a_few_steps_in_a_row_have_no_drafts():
    policy, shown = known_policy(), ""
    for _ in range(220):
        is_control = policy.is_hopeless(1, 0.98, FREE)
        shown += "." if is_control else "d"
        policy.observe(Outcome(1, 0 if is_control else 4, 1 if is_control else 5, 1.0, 0.0, is_drafted=not is_control))
    assert {len(run) for run in shown.split("d") if run} == {7}


def test_nobody_sits_out_while_drafts_may_pay_or_a_trial_is_due():
    policy = known_policy()
    assert policy.steps_to_sit_out(is_hopeless=False) == 0
    fresh = WindowPolicy(4)
    for _ in range(3):
        fresh.observe(Outcome(1, 0, 1, 1.0, 0.0))
    out = fresh.steps_to_sit_out(is_hopeless=True)
    assert out == 3
    fresh.sit_out(out)
    assert fresh.is_trial_due()


def test_a_trial_is_charged_all_that_it_takes_to_begin():
    policy = WindowPolicy(4)
    for _ in range(12):
        policy.observe(Outcome(1, 0, 1, 1.0, 0.0))
    assert policy.trial([Candidate(0.9, 4, 2.0)]) == [1]
    policy.observe(Outcome(1, 1, 1, 1.0, 3.0, is_drafted=True, entry_s=3.0))
    for _ in range(150):
        policy.observe(Outcome(1, 0, 1, 1.0, 0.0))
    assert not policy.is_trial_due(), "1.5 s are earned, 3 s were spent, and no more than one may be owed"
    for _ in range(100):
        policy.observe(Outcome(1, 0, 1, 1.0, 0.0))
    assert policy.is_trial_due()


def test_a_long_context_that_is_entered_over_several_steps_is_charged_too():
    policy = known_policy()
    policy.observe(Outcome(1, 0, 1, 1.0, 30.0, entry_s=30.0))
    for _ in range(8):
        assert not policy.is_hopeless(1, 0.98, FREE), "8 steps at a tenth of what is owed are not yet lost"
        policy.observe(Outcome(1, 4, 2, 1.04, 0.0, is_drafted=True))
    for _ in range(40):
        policy.observe(Outcome(1, 4, 2, 2.0, 0.0, is_drafted=True))
    assert policy._debt_s < 2.0


def test_steps_are_sat_out_too_where_somebody_always_prefills():
    """Nothing is known then of what steps without prefill take, so there is nothing to look for."""
    policy = WindowPolicy(4)
    for _ in range(20):
        policy.observe(Outcome(2, 0, 2, 1.0, 0.0, 30))
    policy.trial([])
    policy.observe(Outcome(2, 2, 4, 1.0, 0.0, 30, is_drafted=True))
    for _ in range(3):
        policy.observe(Outcome(2, 0, 2, 1.0, 0.0, 30))
    assert policy.steps_to_sit_out(is_hopeless=True) > 0
