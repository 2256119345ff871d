"""A machine that computes a part of a model for the head, which is another one: it comes, starts processes, looks after
them, and leaves when the head goes. No torch: that is in the processes.
"""

import contextlib
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from msgspec import structs

from servery import __version__
from servery.engine.channel import decode_config
from servery.engine.config import JOIN_TIMEOUT_S, MASTER_PORT, EngineConfig
from servery.engine.errors import LoadError
from servery.engine.parallel.part import ranks_of
from servery.engine.ranks.fingerprint import fingerprint
from servery.engine.ranks.meeting_place import MeetingPlace
from servery.engine.ranks.network import come_to, interface_of
from servery.engine.ranks.node_line import (
    BEAT_S,
    SILENCE_S,
    Beat,
    Declined,
    Hello,
    Join,
    Leave,
    Lost,
    NodeLine,
    Welcome,
)
from servery.engine.ranks.required import torch_version
from servery.engine.ranks.starting import start_follower, told_end

log = logging.getLogger(__name__)

DONE, FAILED = 0, 1
# What processes have to end, once they are told to.
END_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """What is said on a machine that is not the head; everything else is as the head says.

    The numbers of processes are None where they are not given; those given have to be the head's. `threads` are for each
    process of this machine. Raises `LoadError` for a number outside its range.
    """

    model: Path
    nnodes: int
    node_rank: int
    master_addr: str
    master_port: int = MASTER_PORT
    join_timeout_s: float = JOIN_TIMEOUT_S
    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.nnodes < 2:
            raise LoadError(f"--nnodes is {self.nnodes}; with the head there are at least 2.")
        if not 0 < self.node_rank < self.nnodes:
            raise LoadError(
                f"--node-rank is {self.node_rank}; with --nnodes {self.nnodes} it is 1 to {self.nnodes - 1}: number 0 is the "
                "head, which runs `servery serve`."
            )


def work(options: WorkerOptions) -> int:
    """Take part until the head ends it: 0 then, and when this process is told to stop; 1 when the head or a process is lost.

    Raises `LoadError` when the head does not answer in time, or does not want this machine.
    """
    hello = Hello(
        __version__,
        torch_version(),
        options.nnodes,
        options.node_rank,
        fingerprint(options.model),
        options.tensor_parallel,
        options.pipeline_parallel,
    )
    where = f"{options.master_addr}:{options.master_port}"
    log.info("node %d of %d comes to the head at %s", options.node_rank, options.nnodes, where)
    with contextlib.closing(
        NodeLine(come_to(options.master_addr, options.master_port, options.join_timeout_s))
    ) as line:
        welcome = _welcomed(line, hello, where)
        config = replace(decode_config(welcome.config), model=options.model, threads=options.threads)
        try:
            with _stoppable(), contextlib.closing(_Work(options, line, welcome, config)) as begun:
                return begun.attend()
        except _Stopped:  # before there was anything to attend to
            return DONE


def _welcomed(line: NodeLine, hello: Hello, where: str) -> Welcome:
    try:
        line.send(hello)
        answer = line.receive(SILENCE_S)
    except OSError as error:
        raise LoadError(f"who listens at {where} does not answer as a head does: {error}.") from error
    if isinstance(answer, Declined):
        raise LoadError(f"the head at {where} refuses this node: {answer.message}")
    if not isinstance(answer, Welcome):
        raise LoadError(f"who listens at {where} answers {type(answer).__name__}; is another version there?")
    return answer


class _Stopped(Exception):
    """SIGTERM has come."""


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Inside, the first SIGTERM raises `_Stopped`; what ends then is not interrupted by another."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Work:
    """The processes of this machine, and the connection to the head. `close` it in any case."""

    def __init__(self, options: WorkerOptions, line: NodeLine, welcome: Welcome, config: EngineConfig) -> None:
        self._line = line
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._is_over = threading.Event()
        self._is_lost = False
        ranks = ranks_of(config)
        place = structs.replace(welcome.place, interface=interface_of(str(line.sock.getsockname()[0])))
        read_end, self._life = os.pipe()
        try:
            for rank in range(options.node_rank * ranks.per_node, (options.node_rank + 1) * ranks.per_node):
                self._start(options, rank, read_end, place, welcome.token, config)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(read_end)
        first, last = min(self._processes), max(self._processes)
        log.info("processes %d to %d of %d load their parts of %s", first, last, ranks.count, options.model)

    def attend(self) -> int:
        """Stay as long as the head does."""
        for rank, process in self._processes.items():
            threading.Thread(target=self._watch, args=(rank, process), daemon=True, name=f"rank-{rank}").start()
        threading.Thread(target=self._beat, daemon=True, name="beat").start()
        try:
            while not isinstance(self._line.receive(SILENCE_S), Leave):
                pass
        except TimeoutError:
            log.error("nothing was heard of the head for %g s; this node leaves", SILENCE_S)
            return FAILED
        except OSError as error:
            log.error("the head is gone (%s); this node leaves", error)
            return FAILED
        except (_Stopped, KeyboardInterrupt):
            self._lose("it was told to stop.")
            return DONE
        has_failed = self._is_lost or any(process.poll() for process in self._processes.values())
        log.info("the head has ended; this node leaves")
        return FAILED if has_failed else DONE

    def close(self) -> None:
        """End all processes, whatever they do."""
        self._is_over.set()
        os.close(self._life)  # which they notice
        for process in self._processes.values():
            try:
                process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _start(
        self, options: WorkerOptions, rank: int, life: int, place: MeetingPlace, token: str, config: EngineConfig
    ) -> None:
        with come_to(options.master_addr, options.master_port, options.join_timeout_s) as sock:
            NodeLine(sock).send(Join(token, rank))
            sock.settimeout(None)
            self._processes[rank] = start_follower(sock.fileno(), life, rank, place, config)

    def _watch(self, rank: int, process: "subprocess.Popen[bytes]") -> None:
        status = process.wait()
        if not self._is_over.is_set() and status:
            self._lose(told_end(rank, process.pid, status))

    def _beat(self) -> None:
        with contextlib.suppress(OSError):  # who listens notices as well
            while not self._is_over.wait(BEAT_S):
                self._line.send(Beat())

    def _lose(self, why: str) -> None:
        """The head decides what becomes of it."""
        self._is_lost = True
        log.error("%s", why)
        with contextlib.suppress(OSError):
            self._line.send(Lost(why))
