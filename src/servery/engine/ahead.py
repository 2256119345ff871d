"""Steps that are launched before the one before them is known: the device never waits for the host.

A step's tokens stay on the device and are fed to the next one; the host reads them while that one runs. So it launches
step n + 1, then waits for step n and records it. Where something has to be known of the tokens before the next step can
be decided (a constraint, penalties, log probabilities), a step is *not open*: it is finished on the host, as on a CPU.
"""

import time
from dataclasses import dataclass, field
from operator import is_
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from servery.engine.batch import Batch
from servery.engine.decode_graphs import spare_block
from servery.engine.device_rows import is_limited, pack_rows
from servery.engine.graph_buckets import bucket_of, buckets
from servery.engine.kv import KVCache
from servery.engine.launch import GraphStats, Launched, Launcher, LaunchShape, pack_step, padded
from servery.engine.packed_arrays import PackedArrays
from servery.engine.ranks.crew import Crew
from servery.engine.ranks.messages import Launch
from servery.engine.request import Sequence, StepResult
from servery.engine.runner import Runner
from servery.engine.step import Scheduled, Step
from servery.engine.structure.structure import PendingMasks


class _Arrival(NamedTuple):
    """Tokens on their way to the host, and when they are there."""

    tokens: Tensor | None
    event: torch.cuda.Event | None


@dataclass(slots=True)
class Flight:
    """A step under way. `rows` is where in the device's tokens each sequence's is, for those that sample."""

    step: Step
    batch: Batch
    masks: PendingMasks
    launched: Launched
    arrival: _Arrival
    is_open: bool
    rows: dict[Sequence, int] = field(default_factory=dict)
    launched_at: float = 0.0


class AheadRunner:
    """Launches steps on a device and brings back what they gave."""

    def __init__(
        self, runner: Runner, launcher: Launcher, cache: KVCache, max_running: int, crew: Crew | None = None
    ) -> None:
        self._runner = runner
        self._launcher = launcher
        self._cache = cache
        self._crew = crew
        self._device = launcher.last.device
        self._buckets = buckets(max_running) if launcher.graphs is not None else ()
        self._known: list[Sequence] = []
        self._packed_rows: tuple[list[NDArray[np.generic]], bool] = pack_rows([])[:-1], False
        self._landed_at = 0.0
        self.waited_s = 0.0

    @property
    def graphs(self) -> GraphStats:
        """What was captured so far."""
        graphs = self._launcher.graphs
        return GraphStats() if graphs is None else graphs.stats

    def launch(self, step: Step, before: Flight | None) -> Flight:
        """Launch a step; `before` is the one under way, whose tokens it may need."""
        batch, masks = self._runner.start(step)
        sampling = [(at, item) for at, item in enumerate(step.scheduled) if item.samples]
        is_open = all(self._takes(item) for item in step.scheduled)
        chosen = sampling if is_open else []
        arrays, shape = self._packed(batch, _sources(step, batch, before), chosen)
        if self._crew is not None:
            self._crew.announce(Launch(arrays.places, shape), arrays)
        launched = self._launcher.launch(arrays, shape)
        rows = {item.sequence: row for row, (_, item) in enumerate(chosen)}
        return Flight(step, batch, masks, launched, self._on_its_way(launched), is_open, rows, time.perf_counter())

    def land(self, flight: Flight) -> tuple[dict[Sequence, StepResult], float]:
        """What a step gave, and for how many seconds the device was at it; waits for it."""
        began = time.perf_counter()
        if flight.arrival.event is not None:
            flight.arrival.event.synchronize()
        if flight.is_open:
            results = _results(flight)
        else:
            assert flight.launched.hidden is not None
            results = self._runner.finish(flight.step, flight.batch, flight.launched.hidden, flight.masks)
        now = time.perf_counter()
        elapsed_s = now - max(flight.launched_at, self._landed_at)
        self._landed_at = now
        self.waited_s += now - began
        return results, elapsed_s

    def _takes(self, item: Scheduled) -> bool:
        sequence = item.sequence
        is_simple = sequence.runs_ahead and not item.num_drafts
        return is_simple and (self._launcher.takes_any or sequence.takes_largest)

    def _packed(
        self, batch: Batch, sources: NDArray[np.int64], chosen: list[tuple[int, Scheduled]]
    ) -> tuple[PackedArrays, LaunchShape]:
        at = np.array([at for at, _ in chosen], np.int64)
        decided, is_limited = self._decided([item.sequence for _, item in chosen])
        # The position of the token that follows is that of the row's end.
        rows = [*decided, (batch.starts + batch.counts)[at]]
        arrays = pack_step(batch, sources, (batch.query_starts + batch.counts)[at] - 1, rows)
        longest = int(batch.counts.max())
        is_decoding = longest == 1 and len(chosen) == len(sources)
        bucket = bucket_of(len(chosen), self._buckets) if is_decoding else None
        if bucket is not None:
            arrays = padded(arrays, bucket, spare_block(self._cache), self._cache.block_size)
        shape = LaunchShape(longest, batch.longest_context, len(chosen), is_limited, bucket)
        return PackedArrays.of(arrays, pinned=self._device.type == "cuda"), shape

    def _decided(self, sequences: list[Sequence]) -> tuple[list[NDArray[np.generic]], bool]:
        """What decides the tokens of some sequences, but their positions; the same as long as they are the same."""
        known = self._known
        if len(sequences) != len(known) or not all(map(is_, sequences, known)):
            params = [sequence.params for sequence in sequences]
            arrays = pack_rows([(sequence.params, sequence.seed, 0) for sequence in sequences])[:-1]
            self._known = sequences
            self._packed_rows = arrays, is_limited(params, self._runner.vocab_size)
        return self._packed_rows

    def _on_its_way(self, launched: Launched) -> _Arrival:
        if self._device.type != "cuda":
            return _Arrival(None if launched.tokens is None else launched.tokens.clone(), None)
        there: Tensor | None = None
        if launched.tokens is not None:
            there = torch.empty(len(launched.tokens), dtype=torch.int64, pin_memory=True)
            there.copy_(launched.tokens, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return _Arrival(there, event)


def _sources(step: Step, batch: Batch, before: Flight | None) -> NDArray[np.int64]:
    """For each token of the batch the row of the step before that chose it; -1 where the host knows it."""
    sources = np.full(len(batch.input_ids), -1, np.int64)
    for at, item in enumerate(step.scheduled):
        if item.sequence.is_pending:
            assert before is not None
            sources[int(batch.query_starts[at])] = before.rows[item.sequence]
    return sources


def _results(flight: Flight) -> dict[Sequence, StepResult]:
    results = {item.sequence: StepResult() for item in flight.step.scheduled}
    tokens = [] if flight.arrival.tokens is None else flight.arrival.tokens.tolist()
    for sequence, row in flight.rows.items():
        if tokens[row] < 0:
            position = next(item.start + item.count for item in flight.step.scheduled if item.sequence is sequence)
            results[sequence].error = (
                f"The model's logits at position {position} are not finite, so no token can be chosen; the checkpoint is "
                "damaged, or dtype float32 is needed."
            )
        else:
            results[sequence].token_ids = [tokens[row]]
    return results
