"""Several processes behind one port: a parent that hands each its socket, keeps them alive and passes signals on.

Every worker has a listening socket of its own at the same port (SO_REUSEPORT), among which the system spreads
connections. The sockets are the parent's: what waits in that of a worker that died is answered by the one that takes its
place. The parent has no event loop and no threads, so workers are forks of it: they share its memory and start at once.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from servery.config.types import Config, Kind, Limits
from servery.server.option_error import OptionError
from servery.server.options import ServeOptions

log = logging.getLogger("servery.workers")

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
# A worker that lives shorter than that has not served; so many of them in a row are nobody's bad luck.
_QUICK_S = 5.0
_MOST_QUICK = 5
_RESTART_S = 0.5
_LONGEST_WAIT_S = 3600.0


@dataclass(frozen=True, slots=True)
class Post:
    """A worker's place: its number of so many, the folder where they find each other, and a pipe that ends with the parent."""

    number: int
    count: int
    folder: Path
    parent: int

    def share(self, config: Config) -> Config:
        """The configuration with this worker's part of what deployments may have at a time; each has one place at least."""

        def part(whole: int | None) -> int | None:
            return None if whole is None else max(1, (whole + self.count - 1 - self.number) // self.count)

        deployments = {
            name: replace(each, max_concurrency=part(each.max_concurrency)) for name, each in config.deployments.items()
        }
        return replace(config, deployments=deployments)


Serve = Callable[[socket.socket, Post], int]


def check_workers(options: ServeOptions) -> None:
    """Raise `OptionError` for what several processes cannot have together."""
    if options.workers == 1:
        return
    if options.config is None or any(each.kind is Kind.EMBEDDED for each in options.config.deployments.values()):
        raise OptionError(
            f"--workers is {options.workers}, but an engine belongs to one process: give a configuration whose "
            "deployments all run elsewhere, or --workers 1. (An engine uses all cores by itself.)"
        )
    if options.files is not None:
        raise OptionError(f"--workers is {options.workers}, but --files and its batches belong to one process.")
    if options.config.limits.redis is None and _has_limits(options.config):
        raise OptionError(
            f"--workers is {options.workers} and there are limits, which each would count by itself: let them count "
            "together in a Redis (limits: {redis: ...}), or use --workers 1."
        )


class Workers:
    """So many processes, each of which runs `serve` on one of the sockets and returns its exit code."""

    def __init__(self, sockets: Sequence[socket.socket], serve: Serve) -> None:
        self._sockets = sockets
        self._serve = serve
        self._alive: dict[int, int] = {}  # numbers by process
        self._began_s: dict[int, float] = {}
        self._due: dict[int, float] = {}  # when a number is to be started again
        self._quick = 0
        self._is_stopping = False
        self._codes: list[int] = []

    def run(self) -> int:
        """Until a signal says to stop and all have; the largest of their exit codes."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        reading, writing = os.pipe()
        try:
            with tempfile.TemporaryDirectory(prefix="servery-") as folder:
                for number in range(len(self._sockets)):
                    self._due[number] = 0.0
                while self._alive or self._due:
                    self._start_due(Path(folder), (reading, writing), before)
                    self._hear()
        finally:
            os.close(reading)
            os.close(writing)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return max(self._codes, default=0)

    def _start_due(self, folder: Path, pipe: tuple[int, int], mask: Iterable[int]) -> None:
        now = time.monotonic()
        for number in [each for each, due in self._due.items() if due <= now]:
            del self._due[number]
            process = os.fork()
            if process == 0:
                os.close(pipe[1])
                self._be(Post(number, len(self._sockets), folder, pipe[0]), mask)
            self._alive[process] = number
            self._began_s[number] = now

    def _be(self, post: Post, mask: Iterable[int]) -> None:
        """The worker's life; it does not return."""
        code = 1
        try:
            os.setpgid(0, 0)  # Ctrl-C is the parent's to hear
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for number, sock in enumerate(self._sockets):
                if number != post.number:
                    sock.close()
            code = self._serve(self._sockets[post.number], post)
        except OptionError as error:
            log.error("%s", error)
        except BaseException:
            log.exception("worker %d failed", post.number)
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _hear(self) -> None:
        wait_s = max(0.0, min(self._due.values()) - time.monotonic()) if self._due else _LONGEST_WAIT_S
        heard = signal.sigtimedwait(_SIGNALS, wait_s)
        if heard is None:
            return
        number = signal.Signals(heard.si_signo)
        if number is signal.SIGCHLD:
            self._bury()
            return
        if number is not signal.SIGHUP:
            self._stop()
        self._pass_on(number)

    def _stop(self) -> None:
        self._is_stopping = True
        self._due.clear()

    def _pass_on(self, number: signal.Signals) -> None:
        for process in self._alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def _bury(self) -> None:
        """Take note of who has ended, and have somebody take the place."""
        for process, code in _ended():
            number = self._alive.pop(process, None)
            if number is None:
                continue
            if self._is_stopping:
                self._codes.append(code if code >= 0 else 128 - code)
                continue
            is_quick = time.monotonic() - self._began_s[number] < _QUICK_S
            self._quick = self._quick + 1 if is_quick else 0
            if self._quick >= _MOST_QUICK:
                log.error("worker %d ended with code %d; %d in a row did not last", number, code, self._quick)
                self._codes.append(1)
                self._stop()
                self._pass_on(signal.SIGTERM)
            else:
                log.error("worker %d ended with code %d; another takes its place", number, code)
                self._due[number] = time.monotonic() + (_RESTART_S if is_quick else 0.0)


def _ended() -> Iterator[tuple[int, int]]:
    """Processes that have ended, and how: a code, or minus the number of the signal."""
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if process == 0:
            return
        yield process, os.waitstatus_to_exitcode(status)


def _has_limits(config: Config) -> bool:
    limits = [each.limits for each in config.models.values()] + [each.limits for each in config.keys.values()]
    return config.key_store is not None or bool(config.owners) or any(each != Limits() for each in limits)
