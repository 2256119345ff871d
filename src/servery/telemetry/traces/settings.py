"""Whether traces are sent, and where: by the configuration's file, and for what it leaves open by OpenTelemetry's variables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import MappingProxyType

from servery.config.secret import Secret
from servery.config.types import TracesConfig
from servery.telemetry.traces.sampling import Sampling, sampling_of

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_DELAY = "OTEL_BSP_SCHEDULE_DELAY"
_PATH = "/v1/traces"


class TracesUnavailable(Exception):
    """Traces cannot be sent so; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSettings:
    """`endpoint` is where spans are sent, whole; None: where OpenTelemetry's variables say.

    A span waits for `linger_s` at most for others to be sent with.
    """

    endpoint: str | None = None
    headers: Mapping[str, Secret] = field(default_factory=lambda: MappingProxyType({}))
    sampling: Sampling = field(default_factory=Sampling)
    max_spans: int = 8192
    timeout_s: float | None = None
    service: str | None = None
    content: bool = False
    linger_s: float = 1.0


def trace_settings(config: TracesConfig | None, environment: Mapping[str, str]) -> TraceSettings | None:
    """None where traces are off: nobody named a collector, or OpenTelemetry's variables switch them off.

    Raises `TracesUnavailable`.
    """
    given = any(environment.get(name, "").strip() for name in _ENDPOINTS)
    if config is None and (not given or _is_off(environment)):
        return None
    if config is None or config.endpoint is None:
        if not given:
            raise TracesUnavailable("there is no `endpoint`, and OTEL_EXPORTER_OTLP_ENDPOINT is not set; give either.")
        _check_protocol(environment)
    if not _is_installed():
        raise TracesUnavailable("OpenTelemetry is not installed; pip install 'servery[traces]' brings it.")
    config = config or TracesConfig()
    try:
        sampling = sampling_of(environment) if config.share is None else Sampling(config.share)
        linger_s = _linger_s(environment)
    except ValueError as error:
        raise TracesUnavailable(str(error)) from None
    return TraceSettings(
        endpoint=None if config.endpoint is None else config.endpoint.rstrip("/").removesuffix(_PATH) + _PATH,
        headers=config.headers,
        sampling=sampling,
        max_spans=config.max_spans,
        timeout_s=config.timeout_s,
        service=config.service,
        content=config.content,
        linger_s=linger_s,
    )


def _linger_s(environment: Mapping[str, str]) -> float:
    given = environment.get(_DELAY, "").strip() or "1000"
    if not given.isdecimal():
        raise ValueError(f"{_DELAY} is {given!r}; write milliseconds, such as 1000.")
    return int(given) / 1000


def _is_off(environment: Mapping[str, str]) -> bool:
    is_disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return is_disabled or environment.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() == "none"


def _check_protocol(environment: Mapping[str, str]) -> None:
    protocol = next((found for name in _PROTOCOLS if (found := environment.get(name, "").strip())), _PROTOCOL)
    if protocol != _PROTOCOL:
        raise TracesUnavailable(
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}, but traces are sent by {_PROTOCOL} alone: name the "
            "collector's HTTP port (4318 as a rule), and that protocol."
        )


def _is_installed() -> bool:
    try:
        return (
            find_spec("opentelemetry.exporter.otlp.proto.http") is not None
            and find_spec("opentelemetry.sdk") is not None
        )
    except ModuleNotFoundError:
        return False
