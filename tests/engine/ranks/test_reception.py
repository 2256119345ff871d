"""Machines come and are let in, or told why not; strangers disturb nobody, and who never comes is named."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec import structs

from servery.engine.channel import decode_config
from servery.engine.config import EngineConfig
from servery.engine.errors import EngineDead, LoadError
from servery.engine.parallel.part import ranks_of
from servery.engine.ranks.crew import Crew
from servery.engine.ranks.messages import Begin, Failed, Line
from servery.engine.ranks.network import come_to
from servery.engine.ranks.node_line import Declined, Hello, Join, Lost, NodeLine, Welcome
from servery.engine.ranks.reception import Gathered, Reception
from servery.engine.ranks.required import Required
from tests.engine.ranks.nodes import ADDRESS

PORT = 29499
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def config(tiny: Path) -> EngineConfig:
    return EngineConfig(
        model=tiny, pipeline_parallel=4, nnodes=2, master_addr=ADDRESS, master_port=PORT, join_timeout_s=PATIENCE_S
    )


@pytest.fixture(scope="module")
def hello(config: EngineConfig) -> Hello:
    required = Required.of(config)
    return Hello(required.version, required.torch, 2, 1, required.model)


@contextmanager
def gathering(
    config: EngineConfig, clock: Callable[[], float] = lambda: 0.0
) -> Iterator[tuple[Reception, Callable[[], Gathered | Exception]]]:
    """A reception that waits on a thread of its own, and what came of that."""
    reception = Reception(config, ranks_of(config), lambda loss: None)
    found: list[Gathered | Exception] = []
    is_over = threading.Event()

    def wait() -> None:
        if is_over.is_set():
            raise LoadError("the test is over")

    def gather() -> None:
        try:
            found.append(reception.gather(wait, clock))
        except LoadError as error:
            found.append(error)

    thread = threading.Thread(target=gather)
    thread.start()

    def result() -> Gathered | Exception:
        thread.join()
        return found[0]

    try:
        yield reception, result
    finally:
        is_over.set()
        thread.join()
        reception.close()


def arrive(first: object) -> NodeLine:
    line = NodeLine(come_to(ADDRESS, PORT, PATIENCE_S))
    line.send(first)
    return line


def test_a_machine_comes_with_its_processes_among_strangers(config: EngineConfig, hello: Hello) -> None:
    with gathering(config) as (reception, result):
        strangers = [come_to(ADDRESS, PORT, PATIENCE_S) for _ in range(3)]
        strangers[0].sendall(b"GET / HTTP/1.1\r\n\r\n")
        strangers[1].close()  # the third says nothing, ever
        line = arrive(hello)
        welcome = line.receive(PATIENCE_S)
        assert isinstance(welcome, Welcome)
        assert decode_config(welcome.config) == config
        assert (welcome.place, welcome.place.listener) == (reception.place, None)
        wrong = [arrive(Join(token, rank)) for token, rank in (("é", 2), (welcome.token, 1), (welcome.token, 4))]
        for each in wrong:
            with pytest.raises(ConnectionError):
                each.receive(PATIENCE_S)
        ends = [arrive(Join(welcome.token, rank)) for rank in (3, 2)]
        gathered = result()
        assert isinstance(gathered, Gathered)
        assert [(node.rank, node.address, node.loss) for node in gathered.nodes] == [(1, "127.0.0.1", None)]
        for number, rank_line in enumerate(gathered.lines):  # in the order of the ranks
            rank_line.send(Begin(number, 0))
        assert [len(each.sock.recv(100)) > 8 for each in ends] == [True, True]
        assert sorted(gathered.nodes[0].lines) == [2, 3]
        line.close()
        for each in (*strangers, *(each.sock for each in (*ends, *wrong))):
            each.close()


def test_a_machine_that_is_another_is_told_why_and_nobody_else_came(config: EngineConfig, hello: Hello) -> None:
    time_s = [0.0]
    with gathering(config, lambda: time_s[0]) as (_, result):
        line = arrive(structs.replace(hello, version="0.0.1"))
        declined = line.receive(PATIENCE_S)
        assert isinstance(declined, Declined)
        assert declined.message.startswith("it has servery 0.0.1, the head ")
        line.close()
        time_s[0] = PATIENCE_S + 1
        error = result()
    assert f"node 1 of 2 did not come to {ADDRESS}:{PORT} within 60 s (--join-timeout)" in str(error)
    assert "servery worker MODEL --nnodes 2 --node-rank RANK" in str(error)
    assert "node 1 from 127.0.0.1 was refused: it has servery 0.0.1" in str(error)


def test_a_number_is_given_once_and_a_machine_that_is_gone_again_is_told_of(config: EngineConfig, hello: Hello) -> None:
    with gathering(config) as (_, result):
        first = arrive(hello)
        assert isinstance(first.receive(PATIENCE_S), Welcome)
        second = arrive(hello)
        declined = second.receive(PATIENCE_S)
        assert isinstance(declined, Declined)
        assert "node 1 is here already, from 127.0.0.1" in declined.message
        second.close()
        first.send(Lost("it has no GPU."))
        first.close()
        assert str(result()) == "node 1 (127.0.0.1): it has no GPU."


def test_a_part_that_fails_while_the_head_loads_its_own_is_told_with_the_reason(
    config: EngineConfig, hello: Hello
) -> None:
    """The machine told of its process's end first, and the head ended itself with no more than that."""
    one_each = replace(config, pipeline_parallel=2)
    deaths: list[str] = []
    crew = Crew(one_each, ranks_of(one_each), deaths.append)
    thread = threading.Thread(target=crew.gather, args=(lambda: None,))
    thread.start()
    line = arrive(hello)
    welcome = line.receive(PATIENCE_S)
    assert isinstance(welcome, Welcome)
    end = arrive(Join(welcome.token, 1))
    thread.join()
    Line(end.sock).send(Failed("it needs 9 GB."))
    line.send(Lost("process 1 of the model (pid 5) ended with status 1."))
    line.close()
    end.close()
    with pytest.raises(EngineDead, match="ended with status 1"):
        crew.check(PATIENCE_S)
    with pytest.raises(LoadError, match=r"^process 1 of the model: it needs 9 GB\.$"):
        crew.loaded()
    assert deaths == [], "the head still loads, and asks by itself"
    with pytest.raises(EngineDead, match="ended with status 1"):
        crew.begin(Begin(1, 1))
    crew.close()


def test_who_is_told_of_a_loss_does_not_keep_the_head_from_ending(config: EngineConfig, hello: Hello) -> None:
    """The engine gives itself five seconds to notice, and was kept from ending by them: the server seemed ready."""
    one_each = replace(config, pipeline_parallel=2)
    is_over, is_told = threading.Event(), threading.Event()

    def told(why: str) -> None:
        is_told.set()
        is_over.wait(PATIENCE_S)

    crew = Crew(one_each, ranks_of(one_each), told)
    thread = threading.Thread(target=crew.gather, args=(lambda: None,))
    thread.start()
    line = arrive(hello)
    welcome = line.receive(PATIENCE_S)
    assert isinstance(welcome, Welcome)
    with arrive(Join(welcome.token, 1)).sock:
        thread.join()
        crew.begin(Begin(1, 1))
        (listening,) = (each for each in threading.enumerate() if each.name == "node-1")
        line.close()
        with pytest.raises(EngineDead, match="it is gone"):
            crew.check(PATIENCE_S)
        crew.close()
        assert not listening.is_alive()
        assert is_told.wait(PATIENCE_S)
    is_over.set()


def test_waiting_ends_when_nobody_wants_it_any_more(config: EngineConfig) -> None:
    reception = Reception(config, ranks_of(config), lambda loss: None)

    def wait() -> None:
        raise ConnectionResetError("the server is gone")

    with pytest.raises(ConnectionResetError):
        reception.gather(wait)
    reception.close()
    with socket.create_server((ADDRESS, PORT)):
        pass  # the port is free again
