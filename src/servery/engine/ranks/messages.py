"""What the first process tells the others to do, and how that goes over a socket.

A frame is the lengths of a message and of its arrays, then both. All of a step's arrays are one buffer of bytes.
"""

import socket
import struct

import msgspec
import numpy as np
import torch
from torch import Tensor

from servery.engine.launch import LaunchShape
from servery.engine.packed_arrays import PackedArrays, Place
from servery.engine.ranks.node_line import cut

_LENGTHS = struct.Struct("<II")


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """From a follower, once: its part is in memory, computes in `dtype`, and leaves room for so many blocks of the KV cache."""

    num_blocks: int
    weight_bytes: int
    read_bytes: int
    dtype: str


class Failed(msgspec.Struct, frozen=True, tag=True):
    """From a follower, in place of `Loaded`: why it cannot load its part."""

    message: str
    needed_bytes: int | None = None


class Begin(msgspec.Struct, frozen=True, tag=True):
    """To a follower, once all have loaded: how many blocks the cache has, and for how long contexts."""

    num_blocks: int
    max_model_len: int


class Forward(msgspec.Struct, frozen=True, tag=True):
    """To a follower: run a step; its arrays, see `device_batch.pack`, come along."""

    places: tuple[Place, ...]
    max_query_tokens: int
    longest_context: int


class Logits(msgspec.Struct, frozen=True, tag=True):
    """To a follower: so many rows are coming that logits are wanted of."""

    rows: int


class Launch(msgspec.Struct, frozen=True, tag=True):
    """To a follower: run a step of which the tokens stay on the device; its arrays, see `launch.pack_step`, come along."""

    places: tuple[Place, ...]
    shape: LaunchShape


class Choose(msgspec.Struct, frozen=True, tag=True):
    """To a follower: choose the tokens of the step launched last; its arrays, see `logit_edits.pack_edits`, come along."""

    places: tuple[Place, ...]


class End(msgspec.Struct, frozen=True, tag=True):
    """To a follower: there will be no further step."""


ToFollower = Begin | Forward | Logits | Launch | Choose | End
FromFollower = Loaded | Failed


class Line:
    """One end of a socket between the first process and a follower; sends and receives whole messages."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._encoder = msgspec.msgpack.Encoder()
        self._of_follower = msgspec.msgpack.Decoder(FromFollower)
        self._to_follower = msgspec.msgpack.Decoder(ToFollower)

    def send(self, message: ToFollower | FromFollower, arrays: PackedArrays | None = None) -> None:
        """Raises `OSError` when the other end is gone."""
        payload = self._encoder.encode(message)
        values = b"" if arrays is None else arrays.buffer.numpy().data
        self._sock.sendall(_LENGTHS.pack(len(payload), len(values)) + payload)
        if len(values):
            self._sock.sendall(values)

    def answer(self) -> FromFollower:
        """The next message of a follower; raises `ConnectionError` when it is gone."""
        answer: FromFollower = self._of_follower.decode(self._receive()[0])
        return answer

    def task(self, *, pinned: bool = False) -> tuple[ToFollower, Tensor]:
        """The next thing to do, and its arrays; raises `ConnectionError` when the first process is gone."""
        payload, values = self._receive(pinned=pinned)
        return self._to_follower.decode(payload), values

    def cut(self) -> None:
        """Let nothing more come but what is here already; who waits for it learns that."""
        cut(self._sock)

    def close(self) -> None:
        """Tell the other end that there is nothing to come."""
        self._sock.close()

    def _receive(self, *, pinned: bool = False) -> tuple[bytes, Tensor]:
        head = bytearray(_LENGTHS.size)
        self._fill(memoryview(head))
        message_bytes, array_bytes = _LENGTHS.unpack(head)
        payload = bytearray(message_bytes)
        self._fill(memoryview(payload))
        values = torch.empty(array_bytes, dtype=torch.uint8, pin_memory=pinned and array_bytes > 0)
        self._fill(values.numpy().data)
        return bytes(payload), values

    def _fill(self, room: memoryview) -> None:
        done = 0
        while done < len(room):
            received = self._sock.recv_into(room[done:])
            if not received:
                raise ConnectionResetError("the other process is gone")
            done += received


def arrays_of(places: tuple[Place, ...], values: Tensor) -> PackedArrays:
    """The arrays that came with a message."""
    if not places:
        return PackedArrays(torch.from_numpy(np.empty(0, np.uint8)), ())
    return PackedArrays(values, places)
