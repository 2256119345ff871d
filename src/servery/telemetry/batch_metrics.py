"""What is told of batches: how many are in which state, and what went wrong with them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFigures:
    """The batches that are kept, by status; how often one could not go on; bytes of all that is kept."""

    states: Mapping[str, int]
    faults: int
    kept_bytes: int


class BatchCollector:
    """Reads the figures whenever the metrics are read; nothing where no files are kept."""

    def __init__(self) -> None:
        self.read: Callable[[], BatchFigures | None] = lambda: None

    def collect(self) -> Iterable[Metric]:
        """As they are."""
        states = GaugeMetricFamily("servery_batches", "Batches that are kept.", labels=["state"])
        faults = CounterMetricFamily("servery_batch_faults", "Times that a batch could not go on.")
        kept = GaugeMetricFamily("servery_files_bytes", "Bytes of files, uploads and results of batches.")
        figures = self.read()
        if figures is not None:
            for state, count in sorted(figures.states.items()):
                states.add_metric([state], count)
            faults.add_metric([], figures.faults)
            kept.add_metric([], figures.kept_bytes)
        yield from (states, faults, kept)
