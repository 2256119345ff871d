"""Frames of AWS's event streams, written; only the reader is part of the package."""

import json
import struct
import zlib
from typing import Any


def frame(payload: bytes, **headers: str) -> bytes:
    """One frame; a header's name has its colon and dashes put in: `event_type` is `:event-type`."""
    written = b"".join(_header(f":{name.replace('_', '-')}", value) for name, value in headers.items())
    prelude = struct.pack("!II", 16 + len(written) + len(payload), len(written))
    prelude += struct.pack("!I", zlib.crc32(prelude))
    data = prelude + written + payload
    return data + struct.pack("!I", zlib.crc32(data))


def event(name: str, **fields: Any) -> bytes:
    """An event as Bedrock sends it, with the padding that hides its length."""
    payload = json.dumps({**fields, "p": "abcdefg"}).encode()
    return frame(payload, event_type=name, content_type="application/json", message_type="event")


def exception(name: str, message: str) -> bytes:
    """An exception in the middle of a stream."""
    payload = json.dumps({"message": message}).encode()
    return frame(payload, exception_type=name, content_type="application/json", message_type="exception")


def _header(name: str, value: str) -> bytes:
    text = value.encode()
    return bytes([len(name)]) + name.encode() + b"\x07" + struct.pack("!H", len(text)) + text
