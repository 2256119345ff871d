"""The scheduler's figures: counters since the start, and a snapshot that crosses the process border."""

import msgspec

from servery.engine.request import FinishReason


class SchedulerCounters(msgspec.Struct, kw_only=True):
    """What happened since the start; tokens and sequences are counted once each."""

    scheduled_tokens: int = 0  # positions computed or being computed, drafts and recomputed ones included
    generated_tokens: int = 0
    prefix_query_tokens: int = 0  # of sequences that consulted the prefix cache when first admitted
    prefix_hit_tokens: int = 0  # of these, how many it supplied
    draft_rounds: int = 0  # times that drafts of a sequence were verified
    drafted_tokens: int = 0
    accepted_draft_tokens: int = 0
    preemptions: int = 0
    deferrals: int = 0  # times that a sequence waited a step for blocks that another was computing
    rejected_requests: int = 0  # refused on arrival: the queue was full
    expired_requests: int = 0  # refused while waiting: the deadline passed
    finished_stop: int = 0
    finished_length: int = 0
    finished_abort: int = 0
    finished_error: int = 0

    def count_drafts(self, drafts: int, tokens: int) -> None:
        """So many drafts of a sequence were verified, and it has so many new tokens."""
        self.draft_rounds += 1
        self.drafted_tokens += drafts
        self.accepted_draft_tokens += max(tokens - 1, 0)

    def count_prefix(self, queried_tokens: int, hit_tokens: int) -> None:
        """A sequence looked its prompt up when it was first admitted, and found so much."""
        self.prefix_query_tokens += queried_tokens
        self.prefix_hit_tokens += hit_tokens

    def count_end(self, reason: FinishReason) -> None:
        """A sequence has ended by itself."""
        if reason is FinishReason.STOP:
            self.finished_stop += 1
        elif reason is FinishReason.LENGTH:
            self.finished_length += 1
        elif reason is FinishReason.ERROR:
            self.finished_error += 1


class SchedulerStats(SchedulerCounters, kw_only=True):
    """A snapshot: the counters, and how full everything is now."""

    @property
    def draft_acceptance_rate(self) -> float:
        """The share of drafted tokens that stood; 0 before any."""
        return self.accepted_draft_tokens / self.drafted_tokens if self.drafted_tokens else 0.0

    @property
    def mean_accepted_length(self) -> float:
        """Tokens that a verification of drafts gave, the target's own one included; 0 before any."""
        return 1 + self.accepted_draft_tokens / self.draft_rounds if self.draft_rounds else 0.0

    running: int  # sequences
    waiting: int  # sequences, preempted ones included
    waiting_requests: int  # of which nothing was computed yet
    waiting_tokens: int  # the prompts of these
    num_blocks: int
    free_blocks: int
    held_blocks: int
    cached_blocks: int
