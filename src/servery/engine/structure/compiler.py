"""Compiles constraints for one model, away from the loop that runs its steps, and keeps the newest."""

import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

import llguidance
import msgspec

from servery.engine.constraint import Constraint
from servery.engine.structure.deep_thread import DeepThread
from servery.engine.structure.grammar import grammar_text, refusal
from servery.engine.structure.vocabulary import Vocabulary

MAX_KEPT = 128
MAX_KEPT_BYTES = 4 * 1024 * 1024  # of constraints; compiled they are some fifty times as large


class CompilerStats(msgspec.Struct, kw_only=True):
    """Counters since the start."""

    compiled: int = 0
    refused: int = 0
    hits: int = 0
    compile_s: float = 0.0


class Compiler:
    """Constraints in, matchers at their beginning out. One thread calls it; the work is done on another.

    `load` makes the vocabulary when the first constraint comes: a model that is never constrained does without.
    """

    def __init__(self, load: Callable[[], Vocabulary]) -> None:
        self.stats = CompilerStats()
        self._load = load
        self._vocabulary: Vocabulary | None = None
        self._thread = DeepThread("grammar-compiler")
        self._kept: OrderedDict[Constraint, llguidance.LLMatcher] = OrderedDict()
        self._kept_bytes = 0

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's tokens; there once anything has been compiled."""
        if self._vocabulary is None:
            self._vocabulary = self._load()
        return self._vocabulary

    def kept(self, constraint: Constraint) -> "llguidance.LLMatcher | None":
        """The matcher of a constraint that was compiled lately."""
        key = _key(constraint)
        matcher = self._kept.get(key)
        if matcher is not None:
            self._kept.move_to_end(key)
            self.stats.hits += 1
        return matcher

    def start(self, constraint: Constraint) -> "Future[llguidance.LLMatcher]":
        """Begin to compile; the future raises `InvalidRequest` if it cannot be. `finish` takes note of the result."""
        return self._thread.submit(lambda: self._compile(constraint))

    def finish(self, constraint: Constraint, future: "Future[llguidance.LLMatcher]") -> llguidance.LLMatcher:
        """The matcher that `start` promised, kept for others; raises what the future raises."""
        try:
            matcher = future.result()
        except Exception:
            self.stats.refused += 1
            raise
        self._keep(constraint, matcher)
        return matcher

    def check_time(self) -> None:
        """Give up what takes too long; to be called while anything is being compiled."""
        self._thread.check_time()

    def _compile(self, constraint: Constraint) -> llguidance.LLMatcher:
        started = time.perf_counter()
        matcher = llguidance.LLMatcher(self.vocabulary.compiled, grammar_text(constraint), log_level=0)
        if matcher.is_error():
            raise refusal(constraint, matcher.get_error())
        first = matcher.deep_copy()
        first.compute_bitmask()
        if first.is_error():  # no text at all is of the language
            raise refusal(constraint, first.get_error())
        self.stats.compiled += 1
        self.stats.compile_s += time.perf_counter() - started
        return matcher

    def _keep(self, constraint: Constraint, matcher: llguidance.LLMatcher) -> None:
        key = _key(constraint)
        if key not in self._kept:
            self._kept[key] = matcher
            self._kept_bytes += len(constraint.text)
        while len(self._kept) > MAX_KEPT or (self._kept_bytes > MAX_KEPT_BYTES and len(self._kept) > 1):
            dropped, _ = self._kept.popitem(last=False)
            self._kept_bytes -= len(dropped.text)


def _key(constraint: Constraint) -> Constraint:
    """What decides the grammar: where it begins does not."""
    return msgspec.structs.replace(constraint, reasoning=None)
