"""Whether traces are sent and where, by the file and by the environment."""

import sys

import pytest

from servery.config.secret import Secret
from servery.config.types import TracesConfig
from servery.telemetry.traces.sampling import Sampling
from servery.telemetry.traces.settings import TraceSettings, TracesUnavailable, trace_settings

ENV = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


def test_nobody_named_a_collector() -> None:
    assert trace_settings(None, {}) is None
    assert trace_settings(None, ENV | {"OTEL_SDK_DISABLED": "true"}) is None
    assert trace_settings(None, ENV | {"OTEL_TRACES_EXPORTER": "none"}) is None


def test_the_environment_alone_will_do() -> None:
    more = {
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.5",
        "OTEL_BSP_SCHEDULE_DELAY": "20",
    }
    assert trace_settings(None, ENV | more) == TraceSettings(sampling=Sampling(0.5), linger_s=0.02)


@pytest.mark.parametrize(
    "address", ["http://h:4318", "http://h:4318/", "http://h:4318/v1/traces", "http://h:4318/v1/traces/"]
)
def test_the_file_counts_more_than_the_environment(address: str) -> None:
    config = TracesConfig(
        endpoint=address, headers={"a": Secret("b")}, share=0.25, max_spans=64, timeout_s=2.0, service="s"
    )
    found = trace_settings(config, ENV | {"OTEL_TRACES_SAMPLER": "always_off", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    assert found == TraceSettings(
        endpoint="http://h:4318/v1/traces", headers={"a": Secret("b")}, sampling=Sampling(0.25), max_spans=64,
        timeout_s=2.0, service="s",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, "OTEL_EXPORTER_OTLP_ENDPOINT is not set"),
        (ENV | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http/protobuf alone"),
        (ENV | {"OTEL_TRACES_SAMPLER": "other"}, "OTEL_TRACES_SAMPLER is 'other'"),
        (ENV | {"OTEL_BSP_SCHEDULE_DELAY": "5s"}, "write milliseconds"),
    ],
)
def test_what_cannot_be_says_what_to_do(environment: dict[str, str], told: str) -> None:
    with pytest.raises(TracesUnavailable, match=told):
        trace_settings(TracesConfig(), environment)


def test_a_gateway_without_opentelemetry_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.startswith("opentelemetry.exporter")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)
    with pytest.raises(TracesUnavailable, match=r"pip install 'servery\[traces\]'"):
        trace_settings(None, ENV)
