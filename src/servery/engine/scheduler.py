"""Who computes what in the next step, and what became of it. One rule, no phases.

Every sequence catches up `computed` to its tokens and drafts. `schedule` decides: those that decode first, then
prefills under way, then admissions, within a token budget; it reserves blocks and preempts when there are none.
`commit` alone records progress. No torch, no clock (time is passed in), and no randomness: the same calls give the
same decisions, so that a simulator can run this code.
"""

import math
from collections.abc import Mapping

import msgspec

from servery.engine.admission import check_servable, sequences_of
from servery.engine.blocks import BlockPool
from servery.engine.books import check_books
from servery.engine.errors import IntegrityError, InvalidRequest, Overloaded
from servery.engine.progress import advance, check_result, expect, failed, settle
from servery.engine.request import NewRequest, Output, Sequence, StepResult
from servery.engine.scheduler_config import SchedulerConfig
from servery.engine.scheduler_stats import SchedulerCounters, SchedulerStats
from servery.engine.shared_prefixes import SharedPrefixes
from servery.engine.step import IdleReason, Scheduled, Step, StepPlan
from servery.engine.step_cost import StepCosts
from servery.engine.waiting import WaitingQueue, rank

__all__ = ["IdleReason", "Scheduled", "Scheduler", "SchedulerConfig", "SchedulerStats", "Step", "StepResult"]


class Scheduler:
    """All sequences under way: `add`, then `schedule`, run and `commit` (or `fail`) in turns; `abort` at any moment.

    A sequence waits, holding no blocks, or runs. Progress is guaranteed: preemption takes from the end of the order
    (priority, arrival), so the first in that order always gets on, and the configuration guarantees that it fits.
    """

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.pool = BlockPool(config.num_blocks)
        self._prefixes = SharedPrefixes(self.pool, config.block_size)
        self._waiting = WaitingQueue(config.max_waiting_requests, config.max_waiting_tokens)
        self._running: dict[Sequence, None] = {}  # a set that keeps the order of admission
        self._requests: dict[str, dict[int, Sequence]] = {}  # completions that have not ended, by index
        self._costs = StepCosts()
        self._counters = SchedulerCounters()
        self._next_order = 0

    @property
    def has_work(self) -> bool:
        """Whether any request is under way."""
        return bool(self._requests)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing but background work, or nothing at all."""
        first = self._waiting[0] if len(self._waiting) else None
        return (first is None or first.is_background) and all(sequence.is_background for sequence in self._running)

    @property
    def decoding(self) -> list[Sequence]:
        """Those in the next step of which only the newest token is to be computed: to these, drafts can be added."""
        return [sequence for sequence in self._taking_part() if len(sequence.tokens) - sequence.computed == 1]

    @property
    def spare_tokens(self) -> int:
        """What those who decode and the prefills in sight leave of the next step's budget: drafts get no more."""
        decoding = prefilling = 0
        for sequence in self._taking_part():
            missing = len(sequence.tokens) - sequence.computed
            decoding += missing == 1
            prefilling += missing if missing > 1 else 0
        if len(self._running) < self.config.max_running:
            prefilling += self._waiting.unstarted_tokens
        return max(self._plan(decoding).limit - decoding - prefilling, 0)

    def add(self, request: NewRequest, seed: int, now: float) -> list[Sequence]:
        """Queue a request, all of its completions or none, and return these.

        Raises `InvalidRequest` or `PromptTooLong` for what can never be served, `Overloaded` when the queue is full
        or the request's deadline has passed.
        """
        if request.request_id in self._requests:
            raise InvalidRequest(f"request id {request.request_id!r} is in use by a request under way.", "request_id")
        check_servable(request, self.config)
        try:
            self._waiting.check_room(request, now)
        except Overloaded:
            self._counters.rejected_requests += 1
            raise
        sequences = sequences_of(request, seed, self.config, arrival=now, first_order=self._next_order)
        self._next_order += len(sequences)
        self._requests[request.request_id] = {sequence.index: sequence for sequence in sequences}
        self._waiting.enter(request, sequences)
        return sequences

    def abort(self, request_id: str, index: int | None = None) -> list[Sequence]:
        """Forget a request, or one of its completions, and free its blocks at once; returns what was under way.

        Unknown ids are ignored. Between `schedule` and `commit` too: the step's result for it is then ignored.
        """
        alive = self._requests.get(request_id, {})
        aborted = [sequence for sequence in alive.values() if index is None or sequence.index == index]
        for sequence in aborted:
            self._end(sequence)
        self._counters.finished_abort += len(aborted)
        return aborted

    def schedule(self, now: float) -> Step:
        """Decide the next step and reserve its blocks."""
        refused = self._refuse_expired(now)
        decoding: list[Sequence] = []
        prefilling: list[Sequence] = []
        for sequence in self._taking_part():
            (decoding if len(sequence.tokens) - sequence.computed == 1 else prefilling).append(sequence)
        plan = self._plan(len(decoding))
        self._serve_decodes(plan, decoding)
        self._serve_prefills(plan, prefilling)
        if not plan.preempted:
            self._admit(plan, now)
        self._spend_rest(plan)
        self._serve_drafts(plan, decoding)
        self._counters.scheduled_tokens += plan.limit - plan.left
        return plan.freeze(now, refused, IdleReason.NO_BLOCKS if self._requests else IdleReason.NO_REQUESTS)

    def expect(self, step: Step) -> None:
        """Decide from now on as if the step were committed; what it gives is told by `commit` as ever.

        For steps of which each sequence that samples gets one token, whatever it is. One may still stop at it: what the
        next step computes for it is lost then.
        """
        for item in step.scheduled:
            if item.sequence in self._running:
                expect(item)

    def commit(self, step: Step, results: Mapping[Sequence, StepResult], now: float) -> list[Output]:
        """Record what the step computed: progress, new tokens, ends, and the full blocks others may now use.

        Sequences that were aborted meanwhile are passed over. Raises `IntegrityError`, having changed nothing, if a
        result is missing or does not fit its step.
        """
        running, size = self._running, self.config.block_size
        under_way = [
            (item, check_result(item, results.get(item.sequence)))
            for item in step.scheduled
            if item.sequence in running or item.sequence.is_pending
        ]
        outputs: list[Output] = []
        for item, result in under_way:
            sequence = item.sequence
            output = settle(item, result) if sequence.is_pending else advance(item, result)
            if sequence.computed // size != sequence.published:
                self._prefixes.publish(sequence)
            if output is not None:
                outputs.append(output)
                if item.num_drafts:
                    output.num_drafts = item.num_drafts
                    self._counters.count_drafts(item.num_drafts, len(output.token_ids))
                if output.finish_reason is not None:
                    self._counters.count_end(output.finish_reason)
                    self._end(sequence)
        self._counters.generated_tokens += sum([len(output.token_ids) for output in outputs])
        self._waiting.rate.observe(step.num_tokens, now - step.now)
        return outputs

    def fail(self, step: Step, message: str) -> list[Output]:
        """End the sequences of a step that could not be run; what it may have written is not published."""
        scheduled = [item.sequence for item in step.scheduled]
        under_way = [sequence for sequence in scheduled if sequence in self._running or sequence.is_pending]
        for sequence in under_way:
            sequence.is_pending = False
            self._end(sequence)
        self._counters.finished_error += len(under_way)
        return [failed(sequence, message) for sequence in under_way]

    def observe(self, step: Step, seconds: float) -> None:
        """Learn how long the step took to run; later steps are kept under the target time by it."""
        self._costs.observe(step.num_tokens, seconds, is_background=step.is_background)

    def expected_s(self, step: Step) -> float | None:
        """How long the step should take to run, as far as that can be learnt from earlier ones; None before any."""
        return self._costs.of(is_background=step.is_background).predict(step.num_tokens) or None

    def forget_cached(self) -> None:
        """The KV cache has lost its content; nobody may hold any of it."""
        if self.has_work:
            raise IntegrityError(f"the KV cache is to be lost while {len(self._requests)} requests are under way.")
        self.pool = BlockPool(self.config.num_blocks)
        self._prefixes = SharedPrefixes(self.pool, self.config.block_size)

    def adapters_in_use(self) -> set[int]:
        """The ids of the adapters of all requests under way; 0 among them when one has none."""
        return {each.parent.adapter for completions in self._requests.values() for each in completions.values()}

    def stats(self) -> SchedulerStats:
        """A snapshot of all figures."""
        return SchedulerStats(
            running=len(self._running),
            waiting=len(self._waiting),
            waiting_requests=self._waiting.unstarted_requests,
            waiting_tokens=self._waiting.unstarted_tokens,
            num_blocks=self.pool.num_blocks,
            free_blocks=self.pool.free_blocks,
            held_blocks=self.pool.held_blocks,
            cached_blocks=self.pool.cached_blocks,
            **msgspec.structs.asdict(self._counters),
        )

    def check_integrity(self) -> None:
        """Raise `IntegrityError`, with every figure, unless all books agree; for idle moments and tests."""
        self.pool.check_integrity([sequence.block_ids for sequence in self._running])
        waiting = [self._waiting[position] for position in range(len(self._waiting))]
        alive = [sequence for completions in self._requests.values() for sequence in completions.values()]
        check_books(alive, waiting, list(self._running), self.config.block_size)

    # Deciding: the budget.

    def _taking_part(self) -> list[Sequence]:
        """Those that run and may do so in the next step: what is in the background pauses, and keeps its blocks."""
        is_idle = self.is_idle
        return [
            sequence
            for sequence in self._running
            if (is_idle or not sequence.is_background)
            # Whoever has as many tokens as it may, the last of them not known yet, is about to end.
            and not (sequence.is_pending and len(sequence.tokens) >= sequence.max_len)
        ]

    def _plan(self, num_decoding: int) -> StepPlan:
        limit = self.config.max_step_tokens
        target_s = self.config.target_step_s if num_decoding else self.config.longest_step_s
        is_idle = self.is_idle
        if is_idle:
            target_s = self.config.background_step_s  # whoever comes may have to wait for its end
        if target_s is not None and (affordable := self._costs.of(is_background=is_idle).budget(target_s)) is not None:
            # Everyone who decodes gets a token, and prefill at least a block: it must end some day.
            limit = min(limit, max(affordable, num_decoding + self.config.block_size))
        return StepPlan(limit, math.ceil(self.config.prefill_share * limit))

    def _refuse_expired(self, now: float) -> tuple[Output, ...]:
        refused = []
        for request in self._waiting.expired(now):
            self._counters.expired_requests += 1
            for sequence in list(self._requests[request.request_id].values()):
                self._end(sequence)
                waited_s = now - sequence.arrival
                output = failed(sequence, f"the request's deadline passed after {waited_s:.3f} s in the queue.")
                output.queued_s = waited_s
                output.retry_after_s = self._waiting.retry_after_s()
                refused.append(output)
        return tuple(refused)

    # Deciding: who runs.

    def _serve_decodes(self, plan: StepPlan, decoding: list[Sequence]) -> None:
        """A token for everyone."""
        counts, size = plan.counts, self.config.block_size
        for sequence in decoding:
            if sequence.computed < len(sequence.block_ids) * size:  # its last block has room: nearly always
                counts[sequence] = 1
                plan.left -= 1
            elif sequence in self._running:  # not preempted for one before it
                self._grant(plan, sequence, 1)

    def _serve_drafts(self, plan: StepPlan, decoding: list[Sequence]) -> None:
        """Drafts share what nobody else wants, so that they never take another's token or block."""
        for sequence in decoding:
            if sequence.drafts and sequence in plan.counts:
                useful = sequence.max_len - len(sequence.tokens) - 1
                self._extend(plan, sequence, min(len(sequence.drafts), useful))

    def _serve_prefills(self, plan: StepPlan, prefilling: list[Sequence]) -> None:
        prefilling.sort(key=rank)
        is_contended = len(prefilling) + len(self._waiting) > 1
        for sequence in prefilling:
            if plan.left and sequence in self._running:
                self._grant(plan, sequence, self._prefill_wish(plan, sequence, is_contended=is_contended))

    def _prefill_wish(self, plan: StepPlan, sequence: Sequence, *, is_contended: bool) -> int:
        wish = min(len(sequence.tokens) - sequence.computed, plan.left)
        return min(wish, plan.cap) if is_contended else wish

    def _spend_rest(self, plan: StepPlan) -> None:
        """Give what nobody else wanted of the budget to the prefills that the cap held back."""
        held_back = [each for each, count in plan.counts.items() if len(each.tokens) - each.computed > count]
        for sequence in held_back:
            if not plan.left:
                return
            self._extend(plan, sequence, len(sequence.tokens) - sequence.computed - plan.counts[sequence])

    def _extend(self, plan: StepPlan, sequence: Sequence, more: int) -> None:
        """Grant up to `more` tokens besides those granted, as far as budget and available blocks go."""
        more = min(more, plan.left)
        if more > 0:
            count = plan.counts[sequence]
            plan.give(sequence, self._reserve(sequence, count + more) - count)

    def _grant(self, plan: StepPlan, sequence: Sequence, wanted: int) -> None:
        """Grant a running sequence up to `wanted` tokens, preempting for the first block if it must."""
        granted = self._reserve(sequence, wanted)
        while not granted and self._make_room(plan, sequence):
            granted = self._reserve(sequence, wanted)
        if granted:
            plan.give(sequence, granted)

    def _reserve(self, sequence: Sequence, count: int) -> int:
        """Extend the block table for `count` tokens after `computed`; returns for how many it now suffices."""
        table, size = sequence.block_ids, self.config.block_size
        needed = sequence.computed + count
        missing = -(-needed // size) - len(table)
        if missing > 0:
            taken = self.pool.take(min(missing, self.pool.available_blocks), table[-1] if table else -1)
            table += taken or []
            count = min(count, len(table) * size - sequence.computed)
        return count

    def _make_room(self, plan: StepPlan, sequence: Sequence) -> bool:
        """Preempt the last in the order; whether that was not `sequence` itself."""
        victim = max(self._running, key=rank)
        plan.take_back(victim)
        del self._running[victim]
        self.pool.release(victim.block_ids)  # what is published stays cached and makes the recompute cheap
        victim.block_ids = []
        victim.computed = victim.published = 0
        victim.prompt_logprobs.clear()
        self._waiting.put_back(victim)
        self._counters.preemptions += 1
        return victim is not sequence

    # Deciding: who is admitted.

    def _admit(self, plan: StepPlan, now: float) -> None:
        if not plan.left or not len(self._waiting):
            return
        frontier = self._prefixes.frontier(self._taking_part())
        owed = self._owed_blocks()
        is_idle = self.is_idle
        position = 0
        # Those that wait for another's blocks are stepped over, but the queue is not searched without end.
        while plan.left and position < min(len(self._waiting), self.config.max_running):
            sequence = self._waiting[position]
            if sequence.is_background and not is_idle:
                return
            if len(self._running) >= self.config.max_running and not self._displace(plan, sequence):
                return
            matched = self._prefixes.match(sequence)
            if self._prefixes.wanted(sequence, len(matched)) in frontier:
                self._counters.deferrals += 1
                position += 1
                continue
            if not self._fits(sequence, matched, owed):
                if not self._displace(plan, sequence):
                    return
                owed = self._owed_blocks()
                continue
            self._waiting.pop(position)
            self._start(plan, sequence, matched, now)
            owed += sequence.missing_blocks(self.config.block_size)
            frontier |= self._prefixes.frontier([sequence])

    def _displace(self, plan: StepPlan, sequence: Sequence) -> bool:
        """Preempt one of the background for another that is not; whether there was one."""
        if sequence.is_background or not any(each.is_background for each in self._running):
            return False
        return self._make_room(plan, sequence)

    def _fits(self, sequence: Sequence, matched: list[int], owed: int) -> bool:
        """Whether its tokens so far fit besides what those that run still need for theirs, above the watermark."""
        if not self._running:
            return True
        needed = -(-len(sequence.tokens) // self.config.block_size) - len(matched) + self.pool.count_unheld(matched)
        return self.pool.available_blocks - needed - owed >= self.config.watermark_blocks

    def _owed_blocks(self) -> int:
        """What those that run still need for the tokens that they have."""
        size = self.config.block_size
        return sum(sequence.missing_blocks(size) for sequence in self._running)

    def _start(self, plan: StepPlan, sequence: Sequence, matched: list[int], now: float) -> None:
        self.pool.share(matched)
        self._running[sequence] = None
        self._waiting.mark_started(sequence.request_id)
        sequence.block_ids = matched
        sequence.published = len(matched)
        sequence.computed = len(matched) * self.config.block_size
        if sequence.first_scheduled is None:
            self._note_first_start(sequence, now)
        is_contended = len(self._waiting) > 0
        plan.give(sequence, self._reserve(sequence, self._prefill_wish(plan, sequence, is_contended=is_contended)))

    def _note_first_start(self, sequence: Sequence, now: float) -> None:
        sequence.first_scheduled = now
        sequence.cached_tokens = sequence.computed
        if not sequence.needs_every_position and sequence.root:
            self._counters.count_prefix(sequence.prompt_len, sequence.computed)

    def _end(self, sequence: Sequence) -> None:
        """Forget a sequence wherever it is, and free its blocks."""
        sequence.is_pending = False
        if sequence in self._running:
            del self._running[sequence]
            # It keeps its table, so that a step decided before can still run; nobody is given the blocks until the next.
            self.pool.release(sequence.block_ids, self._prefixes.kept_blocks(sequence))
        else:
            self._waiting.remove(sequence)
        completions = self._requests[sequence.request_id]
        del completions[sequence.index]
        if not completions:
            del self._requests[sequence.request_id]
            self._waiting.mark_started(sequence.request_id)
