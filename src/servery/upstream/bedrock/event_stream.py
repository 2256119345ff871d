"""AWS's event streams (application/vnd.amazon.eventstream): frames with headers, a payload and two checksums.

A frame is, big-endian: its length, its headers' length and the CRC-32 of these eight bytes; the headers; the payload; the
CRC-32 of all before. https://smithy.io/2.0/aws/amazon-eventstream.html
"""

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_PRELUDE = struct.Struct("!III")
_CRC = struct.Struct("!I")
_LEAST_BYTES = _PRELUDE.size + _CRC.size
# What the specification allows of either.
_MAX_HEADER_BYTES = 128 << 10
_MAX_PAYLOAD_BYTES = 24 << 20
_FIXED_BYTES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}  # by the type of a header's value
_BYTES, _TEXT = 6, 7


class BadFrame(ValueError):
    """Bytes that are no frame."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A message; of its headers those that are text, which all that say what it is are."""

    headers: Mapping[str, str]
    payload: bytes

    @property
    def kind(self) -> str:
        """What it is: "event", "exception" or "error"."""
        return self.headers.get(":message-type", "")

    @property
    def name(self) -> str:
        """Which event, exception or error it is."""
        names = {"event": ":event-type", "exception": ":exception-type", "error": ":error-code"}
        return self.headers.get(names.get(self.kind, ""), "")


class FrameCutter:
    """Cuts a stream, which comes in pieces of any size, into frames."""

    def __init__(self) -> None:
        self._rest = b""

    @property
    def has_rest(self) -> bool:
        """Whether a frame has begun that has not ended."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes; raises `BadFrame` for what is none."""
        self._rest += data
        frames: list[Frame] = []
        while (size := _size(self._rest)) is not None and size <= len(self._rest):
            frames.append(_frame(self._rest[:size]))
            self._rest = self._rest[size:]
        return frames


def _size(data: bytes) -> int | None:
    """How long the frame at the beginning is, None while that is not known; its prelude has been checked."""
    if len(data) < _PRELUDE.size:
        return None
    size, header_bytes, crc = _PRELUDE.unpack_from(data)
    if zlib.crc32(data[:8]) != crc:
        raise BadFrame("the checksum of a frame's beginning is wrong")
    payload_bytes = size - header_bytes - _LEAST_BYTES
    if payload_bytes < 0 or header_bytes > _MAX_HEADER_BYTES or payload_bytes > _MAX_PAYLOAD_BYTES:
        raise BadFrame(f"a frame of {size} bytes says that {header_bytes} of them are headers")
    return int(size)


def _frame(data: bytes) -> Frame:
    (crc,) = _CRC.unpack_from(data, len(data) - _CRC.size)
    if zlib.crc32(data[: -_CRC.size]) != crc:
        raise BadFrame("the checksum of a frame is wrong")
    end = _PRELUDE.size + _PRELUDE.unpack_from(data)[1]
    return Frame(_headers(data[_PRELUDE.size : end]), data[end : -_CRC.size])


def _headers(data: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    at = 0

    def take(count: int) -> bytes:
        nonlocal at
        if at + count > len(data):
            raise BadFrame("a header does not end with the headers")
        at += count
        return data[at - count : at]

    while at < len(data):
        name = _text(take(take(1)[0]))
        value = _value(take(1)[0], take)
        if name in headers:
            raise BadFrame(f"a frame has the header {name!r} twice")
        if value is not None:
            headers[name] = value
    return headers


def _value(type_: int, take: Callable[[int], bytes]) -> str | None:
    """A header's value if it is text; of any other type it is only taken."""
    if type_ in _FIXED_BYTES:
        take(_FIXED_BYTES[type_])
        return None
    if type_ not in (_BYTES, _TEXT):
        raise BadFrame(f"a header has the type {type_}, which there is not")
    value = take(int.from_bytes(take(2), "big"))
    return _text(value) if type_ == _TEXT else None


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadFrame("a header is not UTF-8") from None
