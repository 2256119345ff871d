"""A step ahead under any interleaving: contexts are intact, outputs are the model's own, and no block is lost."""

from random import Random

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servery.engine.admission import derive_seed
from servery.engine.errors import Overloaded, PromptTooLong
from servery.engine.request import PENDING_TOKEN, NewRequest, Sequence, StepResult
from servery.engine.scheduler import Scheduler, SchedulerConfig, Step
from tests.engine.fake_runner import FakeRunner, reference
from tests.engine.test_scheduler_properties import EOS, configs, requests


class DeviceRunner(FakeRunner):
    """Computes steps in the order of their launch, and knows the tokens that the host does not know yet."""

    def __init__(self, scheduler: Scheduler) -> None:
        super().__init__(scheduler)
        self._newest: dict[Sequence, int] = {}

    def run(self, step: Step) -> dict[Sequence, StepResult]:
        pending = [item.sequence for item in step.scheduled if item.sequence.is_pending]
        for sequence in pending:
            assert sequence.tokens[-1] == PENDING_TOKEN
            sequence.tokens[-1] = self._newest[sequence]
        results = super().run(step)
        for sequence in pending:
            sequence.tokens[-1] = PENDING_TOKEN
        self._newest = {sequence: result.token_ids[0] for sequence, result in results.items() if result.token_ids}
        return results


class Ahead:
    """A scheduler that decides a step before the one before it is recorded, wherever it can."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.scheduler = Scheduler(config)
        self.runner = DeviceRunner(self.scheduler)
        self.flight: tuple[Step, dict[Sequence, StepResult]] | None = None
        self.texts: dict[tuple[str, int], list[int]] = {}
        self.ends: dict[tuple[str, int], str] = {}

    def step(self) -> None:
        flight = self.flight or self._launch()
        self.flight = None
        if flight is not None:
            if all(not item.sequence.asks_states for item in flight[0].scheduled):
                self.scheduler.expect(flight[0])
                self.flight = self._launch()
            for output in self.scheduler.commit(*flight, 0.0):
                key = output.request_id, output.index
                self.texts.setdefault(key, []).extend(output.token_ids)
                if output.finish_reason is not None:
                    self.ends[key] = output.finish_reason.value
        self.scheduler.check_integrity()

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work or self.flight is not None

    def _launch(self) -> tuple[Step, dict[Sequence, StepResult]] | None:
        step = self.scheduler.schedule(0.0)
        self.scheduler.check_integrity()
        return (step, self.runner.run(step)) if step.scheduled else None


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(configs(), st.lists(requests(), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_outputs_are_those_of_each_request_alone(
    config: SchedulerConfig, batch: list[NewRequest], chance: Random
) -> None:
    ahead = Ahead(config)
    known: dict[str, tuple[NewRequest, int]] = {}
    waiting = [msgspec.structs.replace(each, request_id=f"r{number}") for number, each in enumerate(batch)]
    aborted: set[str] = set()
    while waiting or ahead.has_work:
        if waiting and (chance.random() < 0.4 or not ahead.has_work):
            request = waiting.pop()
            try:
                ahead.scheduler.add(request, len(waiting), 0.0)
                known[request.request_id] = request, len(waiting)
            except (PromptTooLong, Overloaded):
                continue
        if known and chance.random() < 0.03:
            name = chance.choice(sorted(known))
            aborted |= {name} if ahead.scheduler.abort(name) else set()
        ahead.step()
    assert ahead.scheduler.pool.held_blocks == 0
    for name, (request, seed) in known.items():
        for index in range(request.params.n if name not in aborted and not request.pooling else 0):
            tokens, reason = reference(request, derive_seed(seed, index), EOS, config.max_model_len)
            assert (ahead.texts[name, index], ahead.ends[name, index]) == (tokens, reason)
