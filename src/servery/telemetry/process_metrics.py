"""What the server's own process holds: by the names that Prometheus' clients give them everywhere, and the tasks of its loop."""

import asyncio
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric


def watch_process(registry: CollectorRegistry) -> None:
    """Report memory, processor time, open files and start time of this process (`process_…`), and its tasks."""
    ProcessCollector(registry=registry)
    registry.register(_Tasks())


class _Tasks:
    """The tasks of the event loop in which the metrics are read; without a loop there are none."""

    def collect(self) -> Iterable[Metric]:
        """How many are not done."""
        try:
            count = len(asyncio.all_tasks())
        except RuntimeError:
            count = 0
        yield GaugeMetricFamily(
            "servery_event_loop_tasks", "Tasks of the server's event loop that are not done.", count
        )
