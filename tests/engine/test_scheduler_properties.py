"""Under any interleaving, contexts are intact, outputs are the model's own, and no block is lost."""

import math
from dataclasses import dataclass, field
from random import Random

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from servery.engine.admission import derive_seed
from servery.engine.errors import Overloaded, PromptTooLong
from servery.engine.request import BACKGROUND, FinishReason, NewRequest, Output, SamplingParams, Sequence, StepResult
from servery.engine.scheduler import Scheduler, SchedulerConfig, Step
from tests.engine.drive import SEED, Drive, request
from tests.engine.fake_runner import VOCAB, FakeRunner, logprob_of, propose, reference

EOS = frozenset({0, 5})
# Prompts are cuts of these, so that they often share a prefix.
TEXTS = [[(7 * i + i // 3) % VOCAB for i in range(40)], [(5 * i * i + 1) % VOCAB for i in range(40)]]


@st.composite
def configs(draw: st.DrawFn) -> SchedulerConfig:
    block_size = draw(st.sampled_from([1, 2, 4, 8]))
    max_model_len = draw(st.sampled_from([2, 7, 24, 40, 40, 40]))
    max_running = draw(st.sampled_from([1, 2, 4, 6, 8]))
    return SchedulerConfig(
        num_blocks=math.ceil(max_model_len / block_size) + draw(st.sampled_from([0, 1, 3, 12])),
        block_size=block_size,
        max_model_len=max_model_len,
        max_running=max_running,
        max_step_tokens=max_running + draw(st.integers(0, 30)),
        max_waiting_requests=draw(st.sampled_from([2, 20, 20])),
        max_waiting_tokens=draw(st.sampled_from([50, 1000, 1000])),
        prefill_share=draw(st.sampled_from([0.1, 0.5, 1.0])),
        watermark=draw(st.sampled_from([0.0, 0.0, 0.3])),
        target_step_s=draw(st.sampled_from([None, 0.01])),
        enable_prefix_cache=draw(st.booleans()),
        eos_token_ids=EOS,
        vocab_size=VOCAB,
    )


@st.composite
def requests(draw: st.DrawFn) -> NewRequest:
    text = draw(st.sampled_from(TEXTS))
    prompt = text[: draw(st.sampled_from([1, 2, 8, 9, 9, 16, 17, 30]))] + draw(
        st.lists(st.integers(0, VOCAB - 1), max_size=3)
    )
    pooling = draw(st.integers(0, 7)) == 0
    params = SamplingParams(
        n=1 if pooling else draw(st.sampled_from([1, 1, 2, 4])),
        max_tokens=draw(st.sampled_from([None, None, 1, 6, 20])),
        ignore_eos=draw(st.sampled_from([False, True, True])),
        stop_token_ids=draw(st.sampled_from([(), (), (3,), (4, 9)])),
        prompt_logprobs=draw(st.sampled_from([None, None, None, 0])),
    )
    return NewRequest(
        request_id="",
        prompt=prompt,
        params=params,
        priority=draw(st.sampled_from([-1, 0, 1, BACKGROUND])),
        cache_salt=draw(st.sampled_from([b"", b"b"])),
        adapter=draw(st.sampled_from([0, 0, 7])),
        pooling=pooling,
    )


@dataclass
class Known:
    """What the naive model remembers of one request."""

    request: NewRequest
    seed: int
    tokens: dict[int, list[int]] = field(default_factory=dict)
    open: set[int] = field(default_factory=set)
    is_touched: bool = False  # in a step at least once


class SchedulerMachine(RuleBasedStateMachine):
    """A scheduler, a fake runner, and a naive model that knows each request's output from the start."""

    @initialize(config=configs())
    def begin(self, config: SchedulerConfig) -> None:
        self.config = config
        self.scheduler = Scheduler(config)
        self.runner = FakeRunner(self.scheduler)
        self.known: dict[str, Known] = {}
        self.now = 0.0
        self.count = 0

    @rule(batch=st.lists(requests(), min_size=1, max_size=4), patience=st.sampled_from([None, None, 2.0, 0.0]))
    def add(self, batch: list[NewRequest], patience: float | None) -> None:
        for each in batch:
            self._add(each, patience)

    def _add(self, request: NewRequest, patience: float | None) -> None:
        self.count += 1
        deadline = None if patience is None else self.now + patience
        request = msgspec.structs.replace(request, request_id=f"r{self.count}", deadline=deadline)
        before = self.scheduler.stats()
        try:
            self.scheduler.add(request, self.count, self.now)
        except (PromptTooLong, Overloaded) as error:
            after = self.scheduler.stats()
            after.rejected_requests -= isinstance(error, Overloaded)
            assert after == before, "a refused request must leave no trace"
            return
        indexes = set(range(request.params.n))
        self.known[request.request_id] = Known(request, self.count, {i: [] for i in indexes}, indexes)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), whole=st.booleans())
    def abort(self, data: st.DataObject, whole: bool) -> None:
        self._abort(data.draw(st.sampled_from(sorted(self.known))), None if whole else data.draw(st.integers(0, 3)))

    def _abort(self, request_id: str, index: int | None) -> None:
        aborted = {sequence.index for sequence in self.scheduler.abort(request_id, index)}
        known = self.known[request_id]
        assert aborted == {i for i in known.open if index in (None, i)}
        known.open -= aborted
        assert self.scheduler.abort(request_id, index) == []

    @rule(count=st.integers(1, 8), elapsed=st.sampled_from([0.0, 0.5, 3.0]), chance=st.randoms(use_true_random=False))
    def steps(self, count: int, elapsed: float, chance: Random) -> None:
        self.now += elapsed
        for _ in range(count):
            self._draft(chance)
            step = self._schedule()
            self._commit(step, self.runner.run(step))

    @rule(mishap=st.sampled_from(["abort", "abort one", "fail", "nan"]), chance=st.randoms(use_true_random=False))
    def step_with_mishap(self, mishap: str, chance: Random) -> None:
        self._draft(chance)
        step = self._schedule()
        results = self.runner.run(step)
        if not step.scheduled:
            return
        victim = chance.choice(step.scheduled).sequence
        if mishap == "fail":
            self._take_all(self.scheduler.fail(step, "device lost"))
            return
        if mishap == "nan":
            results[victim].error = "logits are not finite"
        else:
            self._abort(victim.request_id, None if mishap == "abort" else victim.index)
        self._commit(step, results)

    def _draft(self, chance: Random) -> None:
        for sequence in self.scheduler._running:
            if not sequence.is_prefilling and not sequence.parent.pooling:
                propose(sequence, wrong_from=chance.randint(0, 4), count=chance.choice([0, 0, 1, 4]))

    def _commit(self, step: Step, results: dict[Sequence, StepResult]) -> None:
        self.scheduler.observe(step, 0.001 * (1 + step.num_tokens))
        self._take_all(self.scheduler.commit(step, results, self.now))

    def _take_all(self, outputs: list[Output]) -> None:
        for output in outputs:
            self._take(output)

    def _schedule(self) -> Step:
        decoding = [s for s in self.scheduler._running if len(s.tokens) - s.computed == 1]
        running = set(self.scheduler._running)
        step = self.scheduler.schedule(self.now)
        for output in step.refused:
            known = self.known[output.request_id]
            assert not known.is_touched
            assert known.request.deadline is not None
            assert known.request.deadline <= self.now
            known.open.remove(output.index)
        in_step = {item.sequence: item.count for item in step.scheduled}
        for sequence in in_step:
            self.known[sequence.request_id].is_touched = True
        assert step.num_tokens == sum(in_step.values()) <= self.config.max_step_tokens
        assert all(count > 0 for count in in_step.values())
        assert all(len(item.sequence.drafts) == item.num_drafts for item in step.scheduled), "the others are dropped"
        assert bool(step.scheduled) == self.scheduler.has_work == (step.idle_reason is None)
        is_mixed = len({sequence.is_background for sequence in in_step}) > 1
        assert not is_mixed, "what is in the background has steps of its own"
        taking_part = [s for s in decoding if not s.is_background or all(each.is_background for each in in_step)]
        assert set(taking_part) <= {*in_step, *step.preempted}, "whoever decodes gets a token in every step"
        assert not set(step.preempted) & set(in_step)
        if not all(sequence.is_background for sequence in step.preempted):
            assert set(in_step) <= running, "nobody is admitted in a step that preempted one of its own kind"
        if all(sequence.is_background for sequence in in_step):
            assert all(sequence.is_background for sequence in self.scheduler._running), "nothing else was there"
        self.scheduler.check_integrity()
        return step

    def _take(self, output: Output) -> None:
        known = self.known[output.request_id]
        request, index = known.request, output.index
        assert index in known.open
        if output.finish_reason is not None:
            known.open.remove(index)
        if output.finish_reason is FinishReason.ERROR:
            return
        if request.pooling:
            assert output.embedding == [float(sum(request.prompt))], "an embedding needs every position once"
            return
        is_first, got = not known.tokens[index], known.tokens[index]
        got += output.token_ids
        assert len(output.logprobs) == len(output.token_ids) > 0
        assert len(output.token_ids) <= 1 + output.num_drafts
        tokens, reason = reference(request, derive_seed(known.seed, index), EOS, self.config.max_model_len)
        assert got == tokens[: len(got)]
        if is_first and index == 0 and request.params.prompt_logprobs is not None:
            prompt = tuple(request.prompt)
            assert output.prompt_logprobs == [None, *(logprob_of(prompt[:end]) for end in range(2, len(prompt) + 1))]
        else:
            assert output.prompt_logprobs == []
        if output.finish_reason is None:
            assert len(got) < len(tokens)
            return
        assert (got, output.finish_reason.value) == (tokens, reason)
        assert output.stop_token_id == (got[-1] if reason == "stop" else None)

    @invariant()
    def books_are_right(self) -> None:
        if hasattr(self, "scheduler"):
            self.scheduler.check_integrity()
            stats = self.scheduler.stats()
            assert stats.running + stats.waiting == sum(len(known.open) for known in self.known.values())

    def teardown(self) -> None:
        """Everything finishes in a bounded number of steps, and every block is free or cached in the end."""
        if not hasattr(self, "scheduler"):
            return
        for _ in range(2000):
            if not self.scheduler.has_work:
                break
            step = self._schedule()
            self._commit(step, self.runner.run(step))
        self.scheduler.check_integrity()
        stats = self.scheduler.stats()
        assert not any(known.open for known in self.known.values())
        assert stats.accepted_draft_tokens <= stats.drafted_tokens
        assert stats.draft_rounds <= stats.drafted_tokens
        assert (stats.running, stats.waiting, stats.waiting_requests, stats.waiting_tokens) == (0, 0, 0, 0)
        assert stats.held_blocks == 0
        assert stats.free_blocks + stats.cached_blocks == stats.num_blocks


def test_any_interleaving_keeps_contexts_outputs_and_blocks_right() -> None:
    run_state_machine_as_test(
        SchedulerMachine,
        settings=settings(
            max_examples=120,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


SCHEDULES = {
    "all at once": {},
    "a token at a time": {"max_running": 1, "max_step_tokens": 1},
    "small chunks": {"max_step_tokens": 9, "prefill_share": 0.3},
    "no cache": {"enable_prefix_cache": False},
    "hardly any blocks": {"num_blocks": 16, "max_step_tokens": 64},
    "hardly any blocks, no cache": {"num_blocks": 16, "enable_prefix_cache": False},
    "blocks of one": {"block_size": 1, "num_blocks": 512},
    "large blocks": {"block_size": 16},
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("drafts", [0, 3])
def test_outputs_do_not_depend_on_chunks_batches_preemption_or_cache(name, drafts):
    batch = [
        request(f"r{i}", [*range(20), *range(i, i + 3 + i % 4)], n=1 + i % 2, max_tokens=5 + 3 * i, priority=i % 3)
        for i in range(10)
    ]
    drive = Drive(**({"num_blocks": 128, "max_step_tokens": 64} | SCHEDULES[name]))
    drive.add(*batch)
    while drive.scheduler.has_work:
        for number, sequence in enumerate(drive.scheduler._running):
            if drafts and not sequence.is_prefilling:
                propose(sequence, wrong_from=number % (drafts + 1), count=drafts)
        drive.step()
    for each in batch:
        for index in range(each.params.n):
            expected = reference(each, derive_seed(SEED, index), (), 64)
            last = drive.last(each.request_id, index)
            assert (drive.tokens(each.request_id, index), last.finish_reason.value) == expected
    stats = drive.stats
    assert (stats.preemptions > 0) == name.startswith("hardly any blocks")
    assert stats.prefix_hit_tokens > 0, "even without a cache, completions of one request share"
    assert (stats.held_blocks, stats.free_blocks + stats.cached_blocks) == (0, stats.num_blocks)
