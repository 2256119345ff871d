"""A model over two machines, which are processes of this one: the tokens of one process, and a clear end in every case."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from servery.engine.errors import EngineDead, LoadError
from servery.engine.llm import LLM
from tests.engine.ranks import nodes
from tests.engine.ranks.test_crew import answers, llm_of


@pytest.fixture(scope="module")
def other(tiny: Path) -> Iterator["subprocess.Popen[str]"]:
    with nodes.worker(tiny) as process:
        yield process


@pytest.fixture(scope="module")
def before() -> dict[str, str]:
    """What this process listens at without the model."""
    return listening()


@pytest.fixture(scope="module")
def spread(tiny: Path, other: "subprocess.Popen[str]", before: dict[str, str]) -> Iterator[LLM]:
    llm = llm_of(tiny, pipeline_parallel=2, **nodes.settings())
    yield llm
    llm.close()


def listening() -> dict[str, str]:
    """The addresses that this process listens at, as the system writes them, by the socket."""
    names = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of the listing itself
            names.append(str(entry.readlink()))
    lines = [
        line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]
    ]
    at = {f"socket:[{line[9]}]": line[1].partition(":")[0] for line in lines if line[3] == "0A"}
    return {name: at[name] for name in names if name in at}


def test_two_machines_give_the_tokens_of_one(spread: LLM, tiny: Path) -> None:
    assert answers(spread) == answers(llm_of(tiny))
    info = spread.core.info
    assert (info.nnodes, info.tensor_parallel, info.pipeline_parallel, spread.core.processes) == (2, 1, 2, [])


@pytest.mark.usefixtures("spread")
def test_nothing_listens_at_all_addresses(before: dict[str, str]) -> None:
    """What the head listens at is its own address, and that of the interface it was given."""
    own = socket.inet_aton(nodes.ADDRESS)[::-1].hex().upper()
    added = [address for name, address in listening().items() if name not in before]
    assert own in added
    assert {address for address in added if address != own} <= {"0100007F"}, "127.0.0.1"


def test_a_machine_that_is_lost_ends_the_engine_with_its_name(spread: LLM, other: "subprocess.Popen[str]") -> None:
    """After the tests above: nothing can be computed any more."""
    other.send_signal(signal.SIGKILL)
    with pytest.raises(EngineDead, match=r"node 1 \(127\.0\.0\.1\): it is gone \("):
        answers(spread)
    with pytest.raises(EngineDead, match=r"node 1 \(127\.0\.0\.1\): it is gone \("):
        spread.core.check_processes()
    spread.close()


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [(2, 1), (2, 2)], ids=str)
def test_any_division_gives_the_tokens_of_one_and_all_leave(tiny: Path, ranks: tuple[int, int]) -> None:
    with nodes.worker(tiny) as process:
        llm = llm_of(tiny, tensor_parallel=ranks[0], pipeline_parallel=ranks[1], **nodes.settings())
        try:
            assert answers(llm) == answers(llm_of(tiny))
        finally:
            llm.close()
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert "the head has ended; this node leaves" in process.stderr.read()


@pytest.mark.slow
def test_three_machines_give_the_tokens_of_one(tiny: Path) -> None:
    with nodes.worker(tiny, nnodes=3, rank=2), nodes.worker(tiny, nnodes=3):
        llm = llm_of(tiny, pipeline_parallel=3, **nodes.settings(nnodes=3))
        try:
            assert answers(llm) == answers(llm_of(tiny))
        finally:
            llm.close()


@pytest.mark.slow
def test_a_process_that_is_killed_on_another_machine_is_told_of(tiny: Path) -> None:
    with nodes.worker(tiny) as process:
        llm = llm_of(tiny, pipeline_parallel=2, **nodes.settings())
        (follower,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(follower), signal.SIGKILL)
        with pytest.raises(
            EngineDead, match=rf"node 1 .*: process 1 of the model \(pid {follower}\) ended with status -9"
        ):
            answers(llm)
        llm.close()
        assert process.wait(60) == 1


@pytest.mark.slow
def test_a_machine_that_is_told_to_stop_says_so(tiny: Path) -> None:
    with nodes.worker(tiny) as process:
        llm = llm_of(tiny, pipeline_parallel=2, **nodes.settings())
        process.terminate()
        assert process.wait(60) == 0
        with pytest.raises(EngineDead, match=r"node 1 .*: it was told to stop\."):
            answers(llm)
        llm.close()


@pytest.mark.slow
def test_a_part_that_cannot_be_loaded_elsewhere_is_told_of_here(tiny: Path, tmp_path: Path) -> None:
    """The other machine's weights are damaged after they were compared."""
    broken = tmp_path / tiny.name
    broken.mkdir()
    for file in tiny.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    with nodes.worker(broken) as process:
        weights = broken / "model.safetensors"
        assert process.stderr is not None
        assert "comes to the head" in process.stderr.readline()  # it has looked at its files
        weights.write_bytes(b"\xff" * 64)
        with pytest.raises(LoadError, match=r"process 1 of the model: .*model\.safetensors is damaged"):
            llm_of(tiny, pipeline_parallel=2, **nodes.settings())
        process.wait(60)
