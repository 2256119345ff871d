"""Another machine is listened to: why it is lost is told once, and what its processes were to answer is waited for no more."""

import socket
import threading
from collections.abc import Iterator

import pytest

from servery.engine.ranks.messages import End, Line
from servery.engine.ranks.node import Node
from servery.engine.ranks.node_line import Beat, Hello, Leave, Lost, NodeLine

PATIENCE_S = 60.0


class Told:
    """Waits for what is told of a loss."""

    def __init__(self) -> None:
        self.losses: list[str] = []
        self._one = threading.Event()

    def __call__(self, loss: str) -> None:
        self.losses.append(loss)
        self._one.set()

    def wait(self) -> list[str]:
        assert self._one.wait(PATIENCE_S)
        return self.losses


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def process() -> Iterator[tuple[Line, Line]]:
    """Both ends of the line to one of its processes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Line(ours), Line(theirs)


def test_signs_of_life_are_answered_and_it_leaves_when_told(
    connection: tuple[socket.socket, socket.socket], process: tuple[Line, Line]
) -> None:
    told, line = Told(), NodeLine(connection[1])
    node = Node(1, NodeLine(connection[0]), told)
    node.lines[1] = process[0]
    for _ in range(3):
        line.send(Beat())
        assert line.receive(PATIENCE_S) == Beat()
    closing = threading.Thread(target=node.close)
    closing.start()
    assert line.receive(PATIENCE_S) == Leave()
    line.close()
    closing.join()
    assert process[1].task()[0] == End()
    assert (told.losses, node.loss) == ([], None)


def test_what_it_says_of_its_end_is_told_once(connection: tuple[socket.socket, socket.socket]) -> None:
    told, line = Told(), NodeLine(connection[1])
    node = Node(2, NodeLine(connection[0]), told)
    line.send(Lost("process 3 ended."))
    line.close()
    assert told.wait() == ["node 2 (127.0.0.1): process 3 ended."]
    node.close()
    assert told.losses == [node.loss]


def test_a_machine_that_is_gone_is_lost_and_its_processes_too(
    connection: tuple[socket.socket, socket.socket], process: tuple[Line, Line]
) -> None:
    told = Told()
    node = Node(1, NodeLine(connection[0]), told)
    node.lines[1] = process[0]
    connection[1].close()
    assert told.wait() == ["node 1 (127.0.0.1): it is gone (the connection was closed)."]
    with pytest.raises(ConnectionError):
        process[0].answer()  # though the process itself says nothing
    node.close()


def test_a_machine_that_is_silent_is_lost(connection: tuple[socket.socket, socket.socket]) -> None:
    """As when it was switched off, or a cable was pulled: nothing closes the connection."""
    told = Told()
    node = Node(1, NodeLine(connection[0]), told, silence_s=0.01)
    assert told.wait() == ["node 1 (127.0.0.1): nothing was heard of it for 0.01 s."]
    connection[1].close()
    node.close()


def test_a_machine_that_says_what_it_should_not_is_lost(connection: tuple[socket.socket, socket.socket]) -> None:
    told = Told()
    node = Node(1, NodeLine(connection[0]), told)
    NodeLine(connection[1]).send(Hello("1", "2", 2, 1, {}))
    assert told.wait() == ["node 1 (127.0.0.1): it is gone (it said Hello)."]
    connection[1].close()
    node.close()
