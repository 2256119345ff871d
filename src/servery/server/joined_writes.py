"""A transport that sends in one piece what one turn of the event loop writes.

The server writes a response's head and its first bytes one after the other. Left to the transport they often leave as
two packets: two wake-ups for the client, and one more for every stream.
"""

import asyncio
from typing import Any


class JoinedWrites:
    """Stands before a transport: holds what is written until the loop's next turn, or until it is closed."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        """Everything else is the transport's own."""
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send `data` with whatever else is written in this turn."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def write_last(self, data: bytes) -> None:
        """Send `data` now, behind what is held: nothing more will come in this turn."""
        self._held.append(data)
        self._flush()

    def close(self) -> None:
        """Send what is held and close."""
        self._flush()
        self._transport.close()

    def write_eof(self) -> None:
        """Send what is held and nothing more."""
        self._flush()
        self._transport.write_eof()

    def _flush(self) -> None:
        held, self._held = self._held, []
        if held and not self._transport.is_closing():
            self._transport.write(held[0] if len(held) == 1 else b"".join(held))
