"""Messages between a server and its engine process, and how they are framed on a socket.

A frame is a 4-byte little-endian length followed by one MessagePack message. Both ends live on one machine, under one
user, over a socket pair that no other process can open.
"""

import socket
import struct

import msgspec

from servery.engine.adapter_source import AdapterInfo
from servery.engine.config import EngineConfig
from servery.engine.glimpse import Glimpse
from servery.engine.request import NewRequest, Output
from servery.engine.stats import EngineInfo, EngineStats

_LENGTH = struct.Struct("<I")
_RECEIVE_BYTES = 1 << 20


class Add(msgspec.Struct, frozen=True, tag=True):
    """To the core: take this request; answered by `Outputs` or by `Refused`."""

    request: NewRequest
    seed: int


class Abort(msgspec.Struct, frozen=True, tag=True):
    """To the core: forget a request, or one of its completions; unknown ids are ignored."""

    request_id: str
    index: int | None = None


class LoadAdapter(msgspec.Struct, frozen=True, tag=True):
    """To the core: load an adapter, under an id that none ever had; answered by `AdapterLoaded` or `AdapterFailed`.

    With `at_once` it is loaded before the next message is taken, else beside the steps of others.
    """

    adapter_id: int
    name: str
    path: str
    at_once: bool = False


class UnloadAdapter(msgspec.Struct, frozen=True, tag=True):
    """To the core: nobody uses this adapter any more; unknown ids are ignored."""

    adapter_id: int


class Sleep(msgspec.Struct, frozen=True, tag=True):
    """To the core: give memory back; answered by `Slept` or `SleepFailed`. No request may be under way or follow."""


class Wake(msgspec.Struct, frozen=True, tag=True):
    """To the core: take the memory again; answered by `Woke` or `SleepFailed`."""


class Look(msgspec.Struct, frozen=True, tag=True):
    """To the core: somebody looks, for a few seconds more; answered by a `Glimpse` about every second."""


class Stop(msgspec.Struct, frozen=True, tag=True):
    """To the core: leave the loop and exit with status 0."""


class Loading(msgspec.Struct, frozen=True, tag=True):
    """From the core, at most once, before `Ready` or `LoadFailed`: what will be taken of the memory, and for what."""

    needed_bytes: int
    text: str


class Ready(msgspec.Struct, frozen=True, tag=True):
    """From the core, once: the weights are loaded and the first request can be taken."""

    info: EngineInfo


class LoadFailed(msgspec.Struct, frozen=True, tag=True):
    """From the core, once, instead of `Ready`; the process then exits.

    `needed_bytes` is there if memory was what failed.
    """

    message: str
    needed_bytes: int | None = None


class Outputs(msgspec.Struct, frozen=True, tag=True):
    """From the core, after every step, and with no outputs as a heartbeat while idle."""

    outputs: list[Output]
    stats: EngineStats


class Refused(msgspec.Struct, frozen=True, tag=True):
    """From the core: the request was not taken. `kind` is the name of the error class in `engine.errors`."""

    request_id: str
    kind: str
    message: str
    param: str | None = None
    retry_after_s: float = 0.0


class AdapterLoaded(msgspec.Struct, frozen=True, tag=True):
    """From the core: requests may use this adapter."""

    info: AdapterInfo


class AdapterFailed(msgspec.Struct, frozen=True, tag=True):
    """From the core: this adapter cannot be loaded; the message says why."""

    adapter_id: int
    message: str


class Slept(msgspec.Struct, frozen=True, tag=True):
    """From the core: so much memory was given back."""

    freed_bytes: int


class Woke(msgspec.Struct, frozen=True, tag=True):
    """From the core: requests may be added again."""


class SleepFailed(msgspec.Struct, frozen=True, tag=True):
    """From the core: it could not sleep, or could not wake for lack of memory; it is as it was."""

    message: str
    needed_bytes: int | None = None


ToCore = Add | Abort | LoadAdapter | UnloadAdapter | Sleep | Wake | Look | Stop
FromCore = (
    Loading
    | Ready
    | LoadFailed
    | Outputs
    | Refused
    | AdapterLoaded
    | AdapterFailed
    | Slept
    | Woke
    | SleepFailed
    | Glimpse
)


def encode_config(config: EngineConfig) -> str:
    """The settings as JSON, for the engine process's command line."""
    return msgspec.json.encode(config, enc_hook=str).decode()


def decode_config(text: str) -> EngineConfig:
    """The inverse of `encode_config`."""
    return msgspec.json.decode(text, type=EngineConfig, dec_hook=lambda kind, value: kind(value))


def frame(payload: bytes) -> bytes:
    """`payload` with its length in front."""
    return _LENGTH.pack(len(payload)) + payload


class FrameReader:
    """Cuts a byte stream back into payloads; holds at most one incomplete frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads that `data` completes, in order."""
        self._buffer += data
        payloads: list[bytes] = []
        at = 0
        while len(self._buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, at)
            end = at + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            payloads.append(bytes(self._buffer[at + _LENGTH.size : end]))
            at = end
        del self._buffer[:at]
        return payloads


class CoreChannel:
    """The core's end: takes what has arrived without waiting, sends in order, waiting for room when the server lags."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._reader = FrameReader()
        self._decoder = msgspec.msgpack.Decoder(ToCore)
        self._encoder = msgspec.msgpack.Encoder()

    def receive(self, timeout_s: float) -> list[ToCore]:
        """Messages that have arrived, waiting up to `timeout_s` for the first (0: do not wait).

        Raises `ConnectionError` when the server is gone.
        """
        self._sock.settimeout(timeout_s)
        try:
            data = self._sock.recv(_RECEIVE_BYTES)
        except (TimeoutError, BlockingIOError):
            return []
        if not data:
            raise ConnectionResetError("the server closed the channel to its engine")
        return [self._decoder.decode(payload) for payload in self._reader.feed(data)]

    def check(self) -> None:
        """Raise `ConnectionError` if the server is gone; what it has sent stays to be received."""
        self._sock.settimeout(None)  # with one, Python waits before it looks
        try:
            if not self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                raise ConnectionResetError("the server closed the channel to its engine")
        except BlockingIOError:
            return  # it has nothing to say

    def send(self, message: FromCore) -> None:
        """Send one message; raises `ConnectionError` when the server is gone."""
        self._sock.settimeout(None)
        self._sock.sendall(frame(self._encoder.encode(message)))
