"""Where the bytes of a response go, whoever runs the application: our own protocol, or any server that speaks ASGI."""

from collections.abc import Awaitable, Generator, Sequence
from typing import Protocol

from servery.server.types import Send

Field = tuple[str, str]  # names in ASCII, values in Latin-1


class Outlet(Protocol):
    """One response on its way out."""

    def begin(self, status: int, fields: Sequence[Field]) -> None:
        """The head; it leaves with the first bytes of the body."""

    def write(self, data: bytes, *, is_last: bool) -> Awaitable[None]:
        """Bytes of the body; waits as long as the client reads slower than they come. Without effect once it has gone."""
        ...

    def write_at_once(self, data: bytes) -> bool:
        """Bytes in the middle of the body, unless they have to wait; whether they were sent."""
        ...


class Sent:
    """What waits for nothing: to await it is to go on."""

    def __await__(self) -> Generator[None, None, None]:
        """Nothing to wait for."""
        return iter(())  # type: ignore[return-value]  # whatever is awaited is only iterated


SENT = Sent()


class AsgiOutlet:
    """A response by ASGI's `send`."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._head: tuple[int, Sequence[Field]] | None = None

    def begin(self, status: int, fields: Sequence[Field]) -> None:
        """Keep the head until there is something of the body."""
        self._head = status, fields

    def write_at_once(self, data: bytes) -> bool:
        """Never: nobody knows whether `send` waits."""
        return False

    async def write(self, data: bytes, *, is_last: bool) -> None:
        """Send what there is."""
        if self._head is not None:
            status, fields = self._head
            self._head = None
            headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in fields]
            await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})
