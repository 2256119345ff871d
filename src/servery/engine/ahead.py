"""Steps that are launched before the one before them is known: the device never waits for the host.

A step's tokens stay on the device and are fed to the next one; the host reads them while that one runs. So it launches
step n + 1, then waits for step n and records it.

What requests say of particular tokens is sent along (`logit_edits`), and log probabilities come back with the tokens. A
constraint has to know token n before it can say what token n + 1 may be: so of a step with one the model is launched as
ever, and while it computes the host reads token n, computes the masks and launches the choice. The device waits only
where masks take longer than the model.

Where something else has to be known before the next step can be decided (drafts, states of every position, adapters), a
step is *not open*: it is finished on the host, as on a CPU.
"""

import time
from dataclasses import dataclass
from operator import is_
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from servery.engine.batch import Batch
from servery.engine.decode_graphs import spare_block
from servery.engine.device_logprobs import LikelyTokens, likely_tokens, told
from servery.engine.device_rows import is_limited, pack_rows
from servery.engine.graph_buckets import bucket_of, buckets
from servery.engine.kv import KVCache
from servery.engine.launch import Edited, GraphStats, Launched, Launcher, LaunchShape, pack_step, padded
from servery.engine.logit_edits import pack_edits
from servery.engine.packed_arrays import PackedArrays
from servery.engine.ranks.crew import Crew
from servery.engine.ranks.messages import Choose, Launch
from servery.engine.request import PENDING_TOKEN, Sequence, StepResult
from servery.engine.runner import Runner
from servery.engine.step import Scheduled, Step
from servery.engine.structure.structure import PendingMasks


class _Arrival(NamedTuple):
    """Tokens on their way to the host, what is told of some of them, and when all are there."""

    tokens: Tensor | None
    likely: LikelyTokens | None
    event: torch.cuda.Event | None


@dataclass(slots=True)
class Flight:
    """A step under way. `rows` is where in the device's tokens each sequence's is, for those that sample.

    `arrival` is None as long as nothing is chosen; `masks` of a step that is not open are None as long as nobody knows them.
    """

    step: Step
    batch: Batch
    launched: Launched
    is_open: bool
    rows: dict[Sequence, int]
    launched_at: float
    arrival: _Arrival | None = None
    masks: PendingMasks | None = None


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
        """Launch a step; `before` is the one under way, whose tokens it may need. Then `complete` has to be called."""
        batch = self._runner.batch(step)
        sampling = [(at, item) for at, item in enumerate(step.scheduled) if item.samples]
        is_open = all(self._takes(item) for item in step.scheduled)
        chosen = sampling if is_open else []
        arrays, shape = self._packed(batch, _sources(step, batch, before), chosen)
        if self._crew is not None:
            self._crew.announce(Launch(arrays.places, shape), arrays)
        launched = self._launcher.launch(arrays, shape)
        rows = {item.sequence: row for row, (_, item) in enumerate(chosen)}
        flight = Flight(step, batch, launched, is_open, rows, time.perf_counter())
        if not shape.chooses_apart:
            flight.arrival = self._on_its_way(launched.tokens, None)
        elif before is None or not any(map(self._runner.is_constrained, rows)):
            self._choose(flight, before)
        return flight

    def complete(self, flight: Flight) -> None:
        """Do what a step waits for until the one before it is recorded: every token of before is known now."""
        if not flight.is_open:
            flight.masks = self._runner.masks(flight.step)
        elif flight.arrival is None:
            self._choose(flight, None)

    def land(self, flight: Flight) -> tuple[dict[Sequence, StepResult], float]:
        """What a step gave, and for how many seconds the device was at it; waits for it."""
        began = time.perf_counter()
        if flight.arrival is not None and flight.arrival.event is not None:
            flight.arrival.event.synchronize()
        if flight.is_open:
            results = _results(flight)
            self._runner.judge(flight.step, results)
        else:
            assert flight.launched.hidden is not None
            assert flight.masks is not None
            results = self._runner.finish(flight.step, flight.batch, flight.launched.hidden, flight.masks)
        now = time.perf_counter()
        elapsed_s = now - max(flight.launched_at, self._landed_at)
        self._landed_at = now
        self.waited_s += now - began
        return results, elapsed_s

    def _takes(self, item: Scheduled) -> bool:
        sequence = item.sequence
        if item.num_drafts or sequence.parent.adapter or sequence.needs_every_position:
            return False
        return self._launcher.takes_any or sequence.params.is_greedy

    def _choose(self, flight: Flight, before: Flight | None) -> None:
        """Send what requests say of the tokens that a launched step is to choose, and let it choose.

        Tokens that the host does not know are those of the step `before`.
        """
        sequences = list(flight.rows)
        rows = self._runner.choices(sequences, self._runner.masks(flight.step).wait())
        fed = {} if before is None else before.rows
        newest = [fed.get(each, -1) if each.tokens[-1] == PENDING_TOKEN else -1 for each in sequences]
        edits = self._sent(pack_edits(rows, newest, self._runner.vocab_size))
        if self._crew is not None:
            self._crew.announce(Choose(edits.places), edits)
        edited = self._launcher.choose_edited(edits)
        assert edited is not None  # the first process has the head
        flight.arrival = self._on_its_way(edited.tokens, self._likely(flight, edited))

    @torch.inference_mode()
    def _likely(self, flight: Flight, edited: Edited) -> LikelyTokens | None:
        """What is to be told of the tokens of those who ask."""
        asking = _asking(flight)
        if not asking:
            return None
        rows = self._sent([np.array([row for row, _, _ in asking], np.int64)]).on(self._device)[0]
        most = max(top for _, _, top in asking)
        return likely_tokens(edited.logits.index_select(0, rows), edited.tokens.index_select(0, rows), most)

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
        apart = any(item.sequence.edits_logits for _, item in chosen)
        shape = LaunchShape(longest, batch.longest_context, len(chosen), is_limited, bucket, apart)
        return self._sent(arrays), shape

    def _sent(self, arrays: list[NDArray[np.generic]]) -> PackedArrays:
        """Arrays from where they go to the device without anybody waiting."""
        return PackedArrays.of(arrays, pinned=self._device.type == "cuda")

    def _decided(self, sequences: list[Sequence]) -> tuple[list[NDArray[np.generic]], bool]:
        """What decides the tokens of some sequences, but their positions; the same as long as they are the same."""
        known = self._known
        if len(sequences) != len(known) or not all(map(is_, sequences, known)):
            params = [sequence.params for sequence in sequences]
            arrays = pack_rows([(sequence.params, sequence.seed, 0) for sequence in sequences])[:-1]
            self._known = sequences
            self._packed_rows = arrays, is_limited(params, self._runner.vocab_size)
        return self._packed_rows

    def _on_its_way(self, tokens: Tensor | None, likely: LikelyTokens | None) -> _Arrival:
        if self._device.type != "cuda":
            return _Arrival(None if tokens is None else tokens.clone(), likely, None)
        there = None if tokens is None else _coming(tokens)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        coming = None if likely is None else LikelyTokens(*map(_coming, likely))
        event.record(torch.cuda.current_stream(self._device))
        return _Arrival(there, coming, event)


def _coming(values: Tensor) -> Tensor:
    """Memory of the host to which `values` are being copied."""
    there = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return there.copy_(values, non_blocking=True)


def _asking(flight: Flight) -> list[tuple[int, Sequence, int]]:
    """Those who want log probabilities: (row, sequence, of how many tokens besides)."""
    asking = ((row, sequence, sequence.params.logprobs) for sequence, row in flight.rows.items())
    return [(row, sequence, top) for row, sequence, top in asking if top is not None]


def _sources(step: Step, batch: Batch, before: Flight | None) -> NDArray[np.int64]:
    """For each token of the batch the row of the step before that chose it; -1 where the host knows it."""
    sources = np.full(len(batch.input_ids), -1, np.int64)
    for at, item in enumerate(step.scheduled):
        if item.sequence.is_pending:
            assert before is not None
            sources[int(batch.query_starts[at])] = before.rows[item.sequence]
    return sources


def _results(flight: Flight) -> dict[Sequence, StepResult]:
    assert flight.arrival is not None
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
    if flight.arrival.likely is not None:
        rows, asking, tops = zip(*_asking(flight), strict=True)
        for sequence, logprobs in zip(
            asking, told(flight.arrival.likely, [tokens[row] for row in rows], tops), strict=True
        ):
            results[sequence].logprobs = [] if results[sequence].error else [logprobs]
    return results
