"""A runner without a model: its KV cache holds, per slot, the whole prefix that was computed into it.

Whoever attends to a position must find there its own adapter's id, its own tenant's salt and its own tokens up to that
position; a block that is leaked, stolen, wrongly shared or published too early shows up at once. The next token is a
hash of the prefix *as read from that cache* and of the seed, so outputs are wrong whenever the cache is.
"""

import zlib
from collections.abc import Collection

from servery.engine.request import NewRequest, Sequence, StepResult, TokenLogprobs
from servery.engine.scheduler import Scheduled, Scheduler, Step

VOCAB = 12

Prefix = tuple[tuple[int, bytes], tuple[int, ...]]


def next_token(prefix: tuple[int, ...], seed: int) -> int:
    """What the model says after a prefix."""
    return zlib.crc32(repr((prefix, seed)).encode()) % VOCAB


def logprob_of(prefix: tuple[int, ...]) -> TokenLogprobs:
    """What the model says about the last token of a prefix."""
    return TokenLogprobs(prefix[-1], -float(zlib.crc32(repr(prefix).encode()) % 100), [])


def reference(request: NewRequest, seed: int, eos: Collection[int], max_model_len: int) -> tuple[list[int], str]:
    """The tokens and the finish reason of one completion, computed alone and without any cache."""
    tokens = list(request.prompt)
    params = request.params
    stop = set(params.stop_token_ids) | (set() if params.ignore_eos else set(eos))
    limit = min(max_model_len, len(tokens) + (params.max_tokens or max_model_len))
    while True:
        tokens.append(next_token(tuple(tokens), seed))
        output = tokens[len(request.prompt) :]
        if tokens[-1] in stop:
            return output, "stop"
        if len(tokens) >= limit:
            return output, "length"


class FakeRunner:
    """Computes steps for a scheduler and checks that every context is intact."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._size = scheduler.config.block_size
        self._slots: dict[int, Prefix] = {}
        self._sums: dict[Sequence, int] = {}

    def run(self, step: Step) -> dict[Sequence, StepResult]:
        """All writes, then all reads, as a batched forward pass does."""
        written: dict[int, Sequence] = {}
        for item in step.scheduled:
            self._write(item, written)
        return {item.sequence: self._result(item) for item in step.scheduled}

    def _write(self, item: Scheduled, written: dict[int, Sequence]) -> None:
        sequence = item.sequence
        tokens = (*sequence.tokens, *sequence.drafts)
        for position in range(item.start, item.start + item.count):
            block = sequence.block_ids[position // self._size]
            slot = block * self._size + position % self._size
            assert slot not in written, f"{sequence} and {written[slot]} both write slot {slot}"
            assert block not in self._scheduler.pool.index, f"{sequence} writes published block {block}"
            written[slot] = sequence
            self._slots[slot] = _owner(sequence), tokens[: position + 1]

    def _read(self, sequence: Sequence, length: int) -> tuple[int, ...]:
        owner, tokens = _owner(sequence), (*sequence.tokens, *sequence.drafts)
        for position in range(length):
            slot = sequence.block_ids[position // self._size] * self._size + position % self._size
            assert self._slots[slot] == (owner, tokens[: position + 1]), (
                f"{sequence} reads a foreign slot at {position}"
            )
        return self._slots[slot][1]

    def _result(self, item: Scheduled) -> StepResult:
        sequence, end = item.sequence, item.start + item.count
        prefix = self._read(sequence, end)
        result = StepResult()
        if sequence.parent.pooling:
            before = self._sums.pop(sequence) if item.start else 0
            self._sums[sequence] = before + sum(prefix[item.start : end])
            result.embedding = [float(self._sums[sequence])] if item.samples else None
            return result
        if sequence.params.prompt_logprobs is not None and not sequence.is_prompt_reported:
            last = min(end, sequence.prompt_len - 1)
            result.prompt_logprobs = [None] if item.start == 0 else []
            result.prompt_logprobs += [logprob_of(tuple(sequence.tokens[: p + 2])) for p in range(item.start, last)]
        if item.samples:
            result.token_ids = self._verify(sequence, prefix, item.num_drafts)
            result.logprobs = [logprob_of((token,)) for token in result.token_ids]
        return result

    def _verify(self, sequence: Sequence, prefix: tuple[int, ...], num_drafts: int) -> list[int]:
        """The drafts that the model agrees with, then its own next token."""
        accepted: list[int] = []
        for row in range(num_drafts + 1):
            token = next_token(prefix[: len(prefix) - num_drafts + row], sequence.seed)
            accepted.append(token)
            if row == num_drafts or prefix[len(prefix) - num_drafts + row] != token:
                break
        return accepted


def _owner(sequence: Sequence) -> tuple[int, bytes]:
    return sequence.parent.adapter, sequence.parent.cache_salt


def propose(sequence: Sequence, wrong_from: int, count: int) -> None:
    """Draft `count` tokens of which those before `wrong_from` will be accepted."""
    tokens = list(sequence.tokens)
    for number in range(count):
        right = next_token(tuple(tokens), sequence.seed)
        tokens.append(right if number < wrong_from else (right + 1) % VOCAB)
    sequence.drafts = tokens[len(sequence.tokens) :]
