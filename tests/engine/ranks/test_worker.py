"""`servery worker` says what is wrong before it loads anything, and when the head does not want it."""

import os
import signal
import socket
import threading
from pathlib import Path

import pytest

from servery import cli
from servery.engine.channel import encode_config
from servery.engine.config import EngineConfig
from servery.engine.errors import LoadError
from servery.engine.ranks import worker
from servery.engine.ranks.meeting_place import MeetingPlace
from servery.engine.ranks.node_line import Beat, Declined, Hello, NodeLine, Welcome
from servery.engine.ranks.worker import WorkerOptions, work
from tests.engine.ranks.nodes import ADDRESS

PATIENCE_S = 60.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nnodes": 1, "node_rank": 1}, "--nnodes is 1; with the head there are at least 2"),
        ({"nnodes": 2, "node_rank": 2}, "--node-rank is 2; with --nnodes 2 it is 1 to 1: number 0 is the head"),
    ],
)
def test_numbers_that_cannot_be_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        WorkerOptions(model=Path("m"), master_addr=ADDRESS, **settings)


def told_by(answer: Declined | Beat | None, model: Path) -> tuple[Hello, str]:
    """What a worker says to a head, and what is said of it when the head answers so; None: it leaves."""
    with socket.create_server((ADDRESS, 0)) as listener:
        port = listener.getsockname()[1]
        said: list[Hello] = []

        def head() -> None:
            sock, _ = listener.accept()
            with sock:
                line = NodeLine(sock)
                said.append(line.receive(PATIENCE_S))
                if answer is not None:
                    line.send(answer)

        thread = threading.Thread(target=head)
        thread.start()
        options = WorkerOptions(
            model=model, nnodes=2, node_rank=1, master_addr=ADDRESS, master_port=port, pipeline_parallel=2
        )
        with pytest.raises(LoadError) as raised:
            work(options)
        thread.join()
    return said[0], str(raised.value)


def test_what_the_head_says_is_told(tiny: Path) -> None:
    said, message = told_by(Declined("it has servery 1."), tiny)
    assert (said.nnodes, said.node_rank, said.tensor_parallel, said.pipeline_parallel) == (2, 1, None, 2)
    assert message.endswith(" refuses this node: it has servery 1.")
    assert "answers Beat; is another version there?" in told_by(Beat(), tiny)[1]
    assert "does not answer as a head does: the connection was closed" in told_by(None, tiny)[1]


def test_it_may_be_told_to_stop_while_it_starts_its_processes(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    config = EngineConfig(model=tiny, pipeline_parallel=2, nnodes=2, master_addr=ADDRESS)
    welcome = Welcome("token", encode_config(config), MeetingPlace(host=ADDRESS, port=1))
    monkeypatch.setattr(worker, "_welcomed", lambda line, hello, where: welcome)
    monkeypatch.setattr(worker, "start_follower", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with socket.create_server((ADDRESS, 0)) as listener:
        port = listener.getsockname()[1]
        options = WorkerOptions(model=tiny, nnodes=2, node_rank=1, master_addr=ADDRESS, master_port=port)
        assert work(options) == worker.DONE
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_command_says_so_and_fails(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["worker", str(tiny), "--nnodes", "2", "--master-addr", ADDRESS, "--master-port", "1"]
    assert cli.main([*arguments, "--node-rank", "1", "--join-timeout", "0"]) == cli.FAILED
    assert f"servery worker: nobody answered at {ADDRESS}:1 within 0 s (--join-timeout)" in capsys.readouterr().err
    assert cli.main([*arguments, "--node-rank", "5"]) == cli.FAILED
    assert "--node-rank is 5; with --nnodes 2 it is 1 to 1" in capsys.readouterr().err
