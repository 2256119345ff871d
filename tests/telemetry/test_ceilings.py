import json
from pathlib import Path

import msgspec
import pytest

from servery.telemetry.ceilings import Ceilings, kept_at, read_ceilings, utilization
from servery.telemetry.metrics import Metrics
from tests.telemetry.test_metrics import INFO, STATS, rendered

RATES = msgspec.structs.replace(STATS, bytes_per_s=5e9, operations_per_s=2e9)
CEILINGS = Ceilings(read_bytes_per_s=10e9, operations_per_s={"float32": 8e9, "bfloat16": 50e9})


def roofline(**machine: object) -> str:
    """A file as the benchmark writes it, with what is not read besides."""
    whole = {"threads": 1, "bandwidth": {"best_bytes_per_s": 10e9, "rounds": 9}, "operations_per_s": {"float32": 8e9}}
    return json.dumps({"provenance": {}, "steps": [], "machine": {**whole, **machine}})


def test_mbu_and_mfu_are_shares_of_the_ceilings_of_the_engines_type() -> None:
    used = utilization(RATES, INFO, CEILINGS)
    assert (used.mbu, used.mfu) == (0.5, 0.25)
    other = utilization(RATES, msgspec.structs.replace(INFO, dtype="float16"), CEILINGS)
    assert (other.mbu, other.mfu, other.peak_operations_per_s) == (0.5, None, None)
    assert utilization(STATS, INFO, CEILINGS).mbu is None
    assert utilization(RATES, INFO, None).mfu is None


def test_the_metrics_have_shares_only_where_ceilings_are_known() -> None:
    metrics = Metrics()
    metrics.watch_engine("m", lambda: RATES, lambda: INFO)
    names = [f'servery_engine_{each}{{model_name="m"}}' for each in ("mbu", "mfu", "peak_bytes_per_second")]
    assert not any(name in rendered(metrics) for name in names)
    metrics.watch_ceilings(lambda info: CEILINGS)
    assert [rendered(metrics)[name] for name in names] == [0.5, 0.25, 10e9]


def test_ceilings_are_read_from_the_benchmarks_file(tmp_path: Path) -> None:
    path = tmp_path / "roofline.json"
    path.write_text(roofline())
    assert read_ceilings(path) == Ceilings(read_bytes_per_s=10e9, operations_per_s={"float32": 8e9})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        (
            "{}",
            "has no ceilings: Object missing required field `machine`.* `servery bench roofline --json FILE` writes",
        ),
        ("no json", "has no ceilings"),
        (roofline(bandwidth={"best_bytes_per_s": 0}), r"bandwidth.best_bytes_per_s is 0.0; it must be greater than 0"),
        (roofline(operations_per_s={"int8": -1}), r"int8 is -1.0; it must be greater than 0"),
    ],
)
def test_a_file_without_ceilings_is_refused_by_name(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "roofline.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=f"roofline.json.*{message}"):
        read_ceilings(path)


def test_what_was_measured_is_kept_by_device_and_threads(tmp_path: Path) -> None:
    home = {"XDG_CACHE_HOME": str(tmp_path)}
    places = {kept_at(device, threads, home) for device in ("cpu", "cuda:0") for threads in (1, 2)}
    assert len(places) == 4
    assert {place.parent for place in places} == {tmp_path / "servery"}
