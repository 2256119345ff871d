"""What an answer has taken so far."""

from collections import Counter

import msgspec

from servery.engine.completion import TextDelta
from servery.upstream.upstream import Chunk
from servery.wire.usage import Debug, Speculation, Usage


class Tally:
    """Counts over the deltas of one or more prompts; prompt `at` has `prompt_tokens[at]` tokens and `n` completions.

    With `is_debugged` the usage tells of speculation.
    """

    def __init__(self, prompt_tokens: list[int], n: int, *, is_debugged: bool = False) -> None:
        self._windows: Counter[int] | None = Counter() if is_debugged else None
        self._accepted_tokens = 0
        self._prompt_tokens = prompt_tokens
        self._n = n
        self._cached_tokens: dict[int, int] = {}
        self._completion_tokens = 0

    def chunk(self, delta: TextDelta, data: bytes = b"", prompt: int = 0, *, is_counted: bool = True) -> Chunk:
        """The piece of the answer that `delta` of prompt `prompt` makes; without `is_counted` its tokens are not."""
        is_first = prompt not in self._cached_tokens
        if is_first:
            # Further completions of a prompt find what the first one computed; that is no hit that the client had.
            self._cached_tokens[prompt] = delta.cached_tokens
        tokens = delta.num_tokens if is_counted else 0
        self._completion_tokens += tokens
        if self._windows is not None and delta.num_tokens:
            self._windows[delta.num_drafts] += 1
            self._accepted_tokens += delta.num_tokens - 1
        return Chunk(
            data=data,
            index=prompt * self._n + delta.index,
            tokens=tokens,
            finish_reason=None if delta.finish_reason is None else delta.finish_reason.value,
            prompt_tokens=self._prompt_tokens[prompt] if is_first else 0,
            cached_tokens=delta.cached_tokens if is_first else 0,
            queued_s=delta.queued_s if is_first else None,
        )

    def usage(self, reasoning_tokens: int = 0) -> Usage:
        """All of it; `reasoning_tokens` of those generated were reasoning."""
        cached = sum(self._cached_tokens.values())
        usage = Usage.of(sum(self._prompt_tokens), self._completion_tokens, cached, reasoning_tokens)
        if self._windows is None:
            return usage
        drafted = sum(window * steps for window, steps in self._windows.items())
        windows = dict(sorted(self._windows.items()))
        return msgspec.structs.replace(usage, servery=Debug(Speculation(drafted, self._accepted_tokens, windows)))
