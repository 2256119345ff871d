"""The section `telemetry` of a file."""

from functools import partial
from types import MappingProxyType
from typing import Any

from servery.config import sections
from servery.config.reader import Reader
from servery.config.secret import Secret
from servery.config.transport import checked_header
from servery.config.types import TelemetryConfig, TracesConfig
from servery.config.units import parse_duration, parse_share

_AT = ("telemetry",)
_TRACES = (*_AT, "traces")


def read_telemetry(reader: Reader, value: Any) -> TelemetryConfig:
    """What it says; faults are the reader's."""
    section = reader.section(sections.TelemetrySection, {} if value is None else value, _AT)
    if section is None:
        return TelemetryConfig()
    traces = None if section.traces is None else _traces(reader, section.traces)
    return TelemetryConfig(traces=traces, log_format=section.log_format)


def _traces(reader: Reader, section: sections.TracesSection) -> TracesConfig:
    headers = {
        name: Secret(reader.read(partial(checked_header, name), value, (*_TRACES, "headers", name), ""))
        for name, value in section.headers.items()
    }
    return TracesConfig(
        endpoint=None
        if section.endpoint is None
        else reader.read(_address, section.endpoint, (*_TRACES, "endpoint"), ""),
        headers=MappingProxyType(headers),
        share=None if section.sample is None else reader.read(parse_share, section.sample, (*_TRACES, "sample"), 1.0),
        max_spans=section.max_spans,
        timeout_s=None
        if section.timeout is None
        else reader.read(parse_duration, section.timeout, (*_TRACES, "timeout"), 10.0),
        service=section.service,
        content=section.content,
    )


def _address(text: str) -> str:
    """A collector's address; raises `ValueError`."""
    scheme, mark, rest = text.partition("://")
    if scheme not in ("http", "https") or not mark or not rest.strip("/") or any(sign in rest for sign in " @?#"):
        raise ValueError(f"'{text}' is no address of a collector; write for instance http://127.0.0.1:4318")
    return text
