"""Messages between machines come as they were sent; whatever else comes is refused at once, however long it claims to be."""

import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from servery.engine.ranks.meeting_place import MeetingPlace, decode_place, encode_place
from servery.engine.ranks.node_line import (
    MAX_BYTES,
    Beat,
    Declined,
    Hello,
    Join,
    Leave,
    Lost,
    NodeLine,
    Welcome,
)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, NodeLine]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, NodeLine(theirs)


def test_messages_come_as_they_were_sent(ends: tuple[socket.socket, NodeLine]) -> None:
    place = MeetingPlace(host="10.0.0.1", port=5, interface="eth0")
    said = [
        Hello("1", "2", 2, 1, {"config.json": "a"}, pipeline_parallel=2),
        Join("token", 3),
        Welcome("token", "{}", place),
        Declined("no"),
        Beat(),
        Lost("gone"),
        Leave(),
    ]
    sender = NodeLine(ends[0])
    for message in said:
        sender.send(message)
    assert [ends[1].receive(5.0) for _ in said] == said
    assert decode_place(encode_place(place)) == place


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("<I", MAX_BYTES + 1),
        struct.pack("<I", 4) + b"\xff\xff\xff\xff",
        struct.pack("<I", 1) + b"\x80",
    ],
    ids=["another protocol", "too long", "no message", "of no kind"],
)
def test_what_is_no_message_is_refused(ends: tuple[socket.socket, NodeLine], sent: bytes) -> None:
    ends[0].sendall(sent)
    with pytest.raises(ConnectionAbortedError, match="what came is no message of a node"):
        ends[1].receive(5.0)


def test_an_end_and_a_silence_are_told_apart(ends: tuple[socket.socket, NodeLine]) -> None:
    with pytest.raises(TimeoutError):
        ends[1].receive(0.001)
    ends[0].sendall(b"\x05")
    ends[0].close()
    with pytest.raises(ConnectionResetError, match="the connection was closed"):
        ends[1].receive(5.0)


def test_who_speaks_slowly_has_no_more_time(ends: tuple[socket.socket, NodeLine]) -> None:
    """Each byte that came gave it the whole time again: somebody slow kept the head from everybody else."""
    is_over = threading.Event()

    def speak() -> None:
        ends[0].sendall(struct.pack("<I", 1000))
        while not is_over.wait(0.02):
            ends[0].sendall(b"x")

    thread = threading.Thread(target=speak)
    thread.start()
    began = time.monotonic()
    try:
        with pytest.raises(TimeoutError):
            ends[1].receive(0.2)
        assert time.monotonic() - began < 10, "a thousand bytes would have taken 20 s"
    finally:
        is_over.set()
        thread.join()
