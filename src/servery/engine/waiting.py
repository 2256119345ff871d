"""The queue of sequences that hold no blocks: bounded, ordered by priority and arrival, with deadlines."""

import math
from bisect import bisect_left, insort

from servery.engine.errors import Overloaded
from servery.engine.request import NewRequest, Sequence

MIN_RETRY_S = 1.0
MAX_RETRY_S = 60.0
# A step's weight in the measured rate falls to 1/e after this many later ones.
RATE_MEMORY_STEPS = 200.0


def rank(sequence: Sequence) -> tuple[int, int]:
    """Who comes first: the lower priority number, then the earlier arrival. Preemption goes from the other end."""
    return sequence.parent.priority, sequence.order


class TokenRate:
    """Tokens per second over the recent steps."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    def observe(self, num_tokens: int, seconds: float) -> None:
        """Learn from one step."""
        keep = 1.0 - 1.0 / RATE_MEMORY_STEPS
        self._tokens = keep * self._tokens + num_tokens
        self._seconds = keep * self._seconds + max(seconds, 0.0)

    def seconds_for(self, num_tokens: int) -> float:
        """How long so many tokens take; 0 before the first observation."""
        return num_tokens * self._seconds / self._tokens if self._tokens else 0.0


class WaitingQueue:
    """Sequences in the order of `rank`.

    The bounds count what has not started: requests of which no completion ran yet, and the tokens of all their
    completions' prompts. What was preempted has been accepted long ago and always finds room.
    """

    def __init__(self, max_requests: int, max_tokens: int) -> None:
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        # Sorted by rank. Inserting and removing move a few kilobytes of pointers at the lengths the bounds allow.
        self._sequences: list[Sequence] = []
        self._unstarted: dict[str, NewRequest] = {}
        self._unstarted_tokens = 0
        self._next_deadline = math.inf  # no unstarted request's deadline is earlier
        self.rate = TokenRate()

    def __len__(self) -> int:
        return len(self._sequences)

    def __getitem__(self, position: int) -> Sequence:
        return self._sequences[position]

    @property
    def unstarted_requests(self) -> int:
        """Requests of which nothing was computed yet."""
        return len(self._unstarted)

    @property
    def unstarted_tokens(self) -> int:
        """The prompt tokens of these requests, times their completions."""
        return self._unstarted_tokens

    def check_room(self, request: NewRequest, now: float) -> None:
        """Raise `Overloaded` if the queue is full or the deadline has passed; an empty queue has room for anything."""
        retry_after_s = self.retry_after_s()
        if request.deadline is not None and request.deadline <= now:
            late_s = now - request.deadline
            raise Overloaded(
                f"the request's deadline passed {late_s:.3f} s before it reached the engine; send it again, with more "
                "time.",
                retry_after_s,
            )
        requests, tokens = len(self._unstarted), self._unstarted_tokens
        is_full = requests >= self._max_requests
        if is_full or (requests and tokens + _num_tokens(request) > self._max_tokens):
            raise Overloaded(
                f"the queue holds {requests} requests of {self._max_requests} and {tokens} tokens of "
                f"{self._max_tokens}, and this one has {_num_tokens(request)}; try again in {retry_after_s:.0f} s.",
                retry_after_s,
            )

    def retry_after_s(self) -> float:
        """When what waits now should have started, at the measured rate; between 1 s and 60 s."""
        return min(max(self.rate.seconds_for(self._unstarted_tokens), MIN_RETRY_S), MAX_RETRY_S)

    def enter(self, request: NewRequest, sequences: list[Sequence]) -> None:
        """Queue a new request's sequences."""
        for sequence in sequences:
            self.put_back(sequence)
        self._unstarted[request.request_id] = request
        self._unstarted_tokens += _num_tokens(request)
        if request.deadline is not None:
            self._next_deadline = min(self._next_deadline, request.deadline)

    def put_back(self, sequence: Sequence) -> None:
        """Queue a sequence at its rank, as after a preemption."""
        insort(self._sequences, sequence, key=rank)

    def pop(self, position: int) -> Sequence:
        """Take out the sequence at a position."""
        return self._sequences.pop(position)

    def remove(self, sequence: Sequence) -> None:
        """Take out a sequence that is queued."""
        del self._sequences[bisect_left(self._sequences, rank(sequence), key=rank)]

    def mark_started(self, request_id: str) -> None:
        """No longer count a request, because it runs or is gone; it may be marked again."""
        request = self._unstarted.pop(request_id, None)
        if request is not None:
            self._unstarted_tokens -= _num_tokens(request)

    def expired(self, now: float) -> list[NewRequest]:
        """The unstarted requests whose deadline has come. Looks at the queue only when one may have."""
        if now < self._next_deadline:
            return []
        deadlines = [(r.deadline, r) for r in self._unstarted.values() if r.deadline is not None]
        self._next_deadline = min((deadline for deadline, _ in deadlines if deadline > now), default=math.inf)
        return [request for deadline, request in deadlines if deadline <= now]


def _num_tokens(request: NewRequest) -> int:
    return len(request.prompt) * request.params.n
