"""Around a step: who is drafted for, what is learnt from it, and what is left alone."""

from servery.engine.request import NewRequest, Sequence, StepResult
from servery.engine.speculation.proposer import DraftCost, Drafted, Offer, Stakes
from servery.engine.speculation.speculator import MAX_ENTRY_TOKENS, Speculator
from servery.engine.speculation.window import Outcome, WindowPolicy
from servery.engine.step import Scheduled, Step


class FakeProposer:
    """Offers token 7, after as many entry tokens as a sequence's name says."""

    kinds = 1

    def __init__(self) -> None:
        self.prepared: dict[str, int] = {}

    def pass_cost(self, rows: int) -> DraftCost | None:
        return DraftCost(0.0, 0.0)

    def entry_s(self, tokens: int) -> float:
        return 0.0

    def offer(self, sequence: Sequence, limit: int) -> Offer | None:
        name = sequence.request_id
        return None if name == "none" else Offer([7] * limit, 0, int(name) if name.isdecimal() else 0)

    def prepare(self, sequence: Sequence, tokens: int) -> None:
        self.prepared[sequence.request_id] = tokens

    def complete(self, step: Step, stakes: Stakes | None = None) -> Drafted:
        return Drafted(step, {}, {})


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.5
        return self.now


class Always(WindowPolicy):
    """Two drafts for everybody, and a record of what is observed."""

    def __init__(self) -> None:
        super().__init__(2)
        self.observed: list[Outcome] = []

    def is_trial_due(self) -> bool:
        return True

    def trial(self, candidates: object, spare_tokens: int = 0) -> list[int]:
        return [2] * len(candidates)  # type: ignore[arg-type]

    def observe(self, outcome: Outcome) -> None:
        self.observed.append(outcome)


def sequence(name: str, *, pooling: bool = False, room: int = 9) -> Sequence:
    one = Sequence(NewRequest(request_id=name, prompt=[1, 2], pooling=pooling), 0, 0, 0.0)
    one.max_len = 2 + room
    return one


def made() -> tuple[Speculator, FakeProposer, Always]:
    proposer, policy = FakeProposer(), Always()
    return Speculator(proposer, lambda: policy, Clock()), proposer, policy


def test_those_are_drafted_for_who_have_no_drafts_and_generate():
    speculator, _, _ = made()
    plain, forced, pooled, last, none = (
        sequence("plain"), sequence("forced"), sequence("pooled", pooling=True), sequence("last", room=2), sequence("none"),
    )  # fmt: skip
    forced.drafts = [3]
    speculator.propose([plain, forced, pooled, last, none], 99)
    assert [each.drafts for each in (plain, forced, pooled, last, none)] == [[7, 7], [3], [], [7], []]


def test_what_a_step_may_compute_to_begin_is_shared_in_turn():
    """The first fits, the second gets what is left without drafting, the others wait."""
    speculator, proposer, _ = made()
    near, far, farther, at_once = (sequence(name) for name in ("200", "100", "900", "0"))
    speculator.propose([near, far, farther, at_once], 99)
    assert [each.drafts for each in (near, far, farther, at_once)] == [[7, 7], [], [], [7, 7]]
    assert proposer.prepared == {"100": MAX_ENTRY_TOKENS - 200}


def test_a_step_is_learnt_from_with_its_own_drafts_only():
    speculator, _, policy = made()
    own, forced = sequence("own"), sequence("forced")
    forced.drafts = [3, 3, 3]
    speculator.propose([own, forced], 99)
    step = Step((Scheduled(own, 1, 3, True, 2), Scheduled(forced, 1, 4, True, 3)), num_tokens=7)
    speculator.complete(step)
    speculator.observe(step, {own: StepResult([7, 5]), forced: StepResult([3, 3, 3, 8])})
    assert policy.observed == [Outcome(2, 5, 6, 0.5, 1.0, is_drafted=True)], (
        "one of two and three of three drafts stood"
    )
    before = speculator._acceptance.of(sequence("new"), 0)
    assert speculator._acceptance.of(own, 0) < before
    assert speculator._acceptance.of(forced, 0) == before


def test_what_was_prefilled_in_a_step_is_told_apart():
    speculator, _, policy = made()
    own, new = sequence("own"), sequence("new")
    speculator.propose([own], 99)
    step = Step((Scheduled(own, 1, 3, True, 2), Scheduled(new, 0, 2, True)), num_tokens=5)
    speculator.complete(step)
    speculator.observe(step, {own: StepResult([7, 7, 5]), new: StepResult([4])})
    assert policy.observed == [Outcome(1, 2, 3, 0.5, 1.0, 2, is_drafted=True)]
    assert speculator._acceptance.of(own, 0) > 0.7


def test_every_range_of_load_has_a_policy_of_its_own():
    policies: list[Always] = []

    def make() -> Always:
        policies.append(Always())
        return policies[-1]

    speculator = Speculator(FakeProposer(), make, Clock())
    for count in (1, 2, 3, 5, 7, 1):
        running = [sequence(str(number)) for number in range(count)]
        speculator.propose(running, 99)
        step = Step(tuple(Scheduled(each, 1, 3, True, 2) for each in running))
        speculator.complete(step)
        speculator.observe(step, {each: StepResult([7, 5]) for each in running})
    assert [[seen[0] for seen in policy.observed] for policy in policies] == [[1, 1], [2, 3], [5, 7]]


def test_nothing_is_decided_where_nobody_has_drafts_to_offer():
    speculator, _, policy = made()
    policy.trial = None  # type: ignore[assignment]
    speculator.propose([sequence("none")], 99)


class Never(Always):
    """Nothing pays, and nothing is tried."""

    def is_trial_due(self) -> bool:
        return False

    def is_hopeless(self, num_sequences: int, acceptance: float, drafting: object) -> bool:
        return True

    def steps_to_sit_out(self, *, is_hopeless: bool) -> int:
        return 3 if is_hopeless else 0

    def sit_out(self, steps: int) -> None:
        self.observed.append(Outcome(0, 0, steps, 0.0, 0.0))


def test_steps_in_which_drafts_cannot_pay_are_sat_out_in_each_range_of_load_by_itself():
    policy, reads = Never(), []

    def clock() -> float:
        reads.append(0.0)
        return 0.0

    speculator = Speculator(FakeProposer(), lambda: policy, clock)
    looked = []
    for count in (1, 1, 1, 2, 1, 1, 2, 0):
        running = [sequence(str(number)) for number in range(count)]
        before = len(reads)
        if not speculator.sits_out(count):
            speculator.propose(running, 99)
        step = Step(tuple(Scheduled(each, 1, 1, True) for each in running), num_tokens=count)
        assert speculator.complete(step) == (step, {})
        speculator.observe(step, {each: StepResult([7]) for each in running})
        looked.append(len(reads) > before)
    assert looked == [True, False, False, True, False, True, False, False]
    assert [each.tokens for each in policy.observed] == [1, 2, 3, 1], "what was sat out is told before the next look"
