"""What the machines of a model say to each other before and beside its steps, and how that goes over a socket. No torch.

A frame is a length and a MessagePack message. Who sends anything else, or anything long, belongs to nobody here.
"""

import socket
import struct
import threading
import time
from typing import TypeVar

import msgspec

from servery.engine.ranks.meeting_place import MeetingPlace

# A node says so often that it is there, and is lost when nothing was heard of it for so long; the head likewise.
BEAT_S = 2.0
SILENCE_S = 30.0
_LENGTH = struct.Struct("<I")
# More than any of these messages has; a stranger's first four bytes may ask for gigabytes.
MAX_BYTES = 4 << 20


class Hello(msgspec.Struct, frozen=True, tag=True):
    """From a node, first: who it is, and what has to be the same everywhere.

    `model` are digests by file name, see `fingerprint`. The numbers of processes are None where they were not given.
    """

    version: str
    torch: str
    nnodes: int
    node_rank: int
    model: dict[str, str]
    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None


class Join(msgspec.Struct, frozen=True, tag=True):
    """From a node, first on a connection that one of its processes will have; `token` is what `Welcome` told."""

    token: str
    rank: int


class Welcome(msgspec.Struct, frozen=True, tag=True):
    """To a node: it takes part. The settings are the head's, as JSON, the place that of all processes."""

    token: str
    config: str
    place: MeetingPlace


class Declined(msgspec.Struct, frozen=True, tag=True):
    """To a node: it does not, because of `message`."""

    message: str


class Beat(msgspec.Struct, frozen=True, tag=True):
    """From a node every few seconds, and back: who sends it is alive."""


class Lost(msgspec.Struct, frozen=True, tag=True):
    """From a node: it cannot go on, because of `message`."""

    message: str


class Leave(msgspec.Struct, frozen=True, tag=True):
    """To a node: there will be nothing more to do."""


Spoken = Hello | Join | Welcome | Declined | Beat | Lost | Leave
T = TypeVar("T")


class NodeLine:
    """One end of a connection between two machines; sends and receives whole messages. Any thread may send."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._sending = threading.Lock()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Spoken)

    @property
    def peer(self) -> str:
        """The address of the other end."""
        return str(self.sock.getpeername()[0])

    def send(self, message: Spoken) -> None:
        """Raises `OSError` when the other end is gone."""
        payload = self._encoder.encode(message)
        with self._sending:
            self.sock.sendall(_LENGTH.pack(len(payload)) + payload)

    def receive(self, timeout_s: float) -> Spoken:
        """The next message, all of it within `timeout_s`.

        Raises `ConnectionError` when the other end is gone or strange, `TimeoutError` when it is silent, or slow.
        """
        until = time.monotonic() + timeout_s
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size, until))
        if length > MAX_BYTES:
            raise ConnectionAbortedError("what came is no message of a node")
        try:
            message: Spoken = self._decoder.decode(self._exactly(length, until))
        except msgspec.DecodeError as error:
            raise ConnectionAbortedError(f"what came is no message of a node: {error}") from error
        return message

    def close(self) -> None:
        """Tell the other end that there is nothing to come, and whoever waits here."""
        cut(self.sock)
        self.sock.close()

    def _exactly(self, length: int, until: float) -> bytes:
        data = bytearray()
        while len(data) < length:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise TimeoutError("it took too long over a message")
            self.sock.settimeout(left_s)
            received = self.sock.recv(min(length - len(data), 1 << 16))
            if not received:
                raise ConnectionResetError("the connection was closed")
            data += received
        return bytes(data)


def cut(sock: socket.socket) -> None:
    """Let nothing more come or go over a connection; what has come can still be read."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it is closed already, or the other end is gone
