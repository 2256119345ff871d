"""What Prometheus is told of batches."""

from servery.telemetry.batch_metrics import BatchFigures
from servery.telemetry.metrics import Metrics


def told(metrics: Metrics) -> list[str]:
    names = ("servery_batch", "servery_files_bytes")
    return [line for line in metrics.render().decode().splitlines() if line.startswith(names)]


def test_batches_are_told_by_state_where_there_can_be_any() -> None:
    metrics = Metrics()
    assert told(metrics) == []
    metrics.watch_batches(lambda: BatchFigures(states={"completed": 2, "failed": 1}, faults=3, kept_bytes=70))
    assert told(metrics) == [
        'servery_batches{state="completed"} 2.0',
        'servery_batches{state="failed"} 1.0',
        "servery_batch_faults_total 3.0",
        "servery_files_bytes 70.0",
    ]
