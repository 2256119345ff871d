"""What goes wrong, by chance and one after the other: processes are killed and stopped, connections reset."""

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos.stage import OWN, Stage
from benchmarks.served import Server, Target, gone

# The longest that a process is stopped: longer than the gateway waits for an engine's sign of life (4 s).
_LONGEST_STOP_S = 7.0
# An engine whose server was killed notices by itself.
_ORPHAN_S = 30.0


@dataclass(slots=True)
class Trouble:
    """Makes trouble on a stage every `every_s` on average. `done` says when (seconds since the start) and what."""

    stage: Stage
    chance: random.Random
    every_s: float
    done: list[tuple[float, str]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    _began_s: float = field(default_factory=time.monotonic)

    async def make(self) -> None:
        """Until cancelled; what is stopped then goes on, what was killed elsewhere is started again."""
        kinds: dict[str, tuple[float, Callable[[], Awaitable[None]]]] = {
            "kill an engine": (5, self._kill_engine),
            "stop an engine": (4, self._stop_engine),
            "kill the server elsewhere": (1.5, self._kill_remote),
            "kill its engine": (1.5, self._kill_remote_engine),
            "stop the server elsewhere": (2, self._stop_remote),
            "reset its connections": (4, self._cut),
            "unplug it": (1.5, self._unplug),
            "reload the configuration": (1.5, self._reload),
        }
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                await asyncio.sleep(self.chance.expovariate(1 / self.every_s))
                name = self.chance.choices(tuple(kinds), [weight for weight, _ in kinds.values()])[0]
                self._note(name)
                task = asyncio.ensure_future(kinds[name][1]())
                running.add(task)
                task.add_done_callback(running.discard)
                task.add_done_callback(self._over)
        finally:
            await asyncio.gather(*running, return_exceptions=True)

    def _over(self, task: asyncio.Future[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.violations.append(f"the trouble itself failed: {error!r}")

    def _note(self, what: str) -> None:
        self.done.append((round(time.monotonic() - self._began_s, 1), what))

    def _engine(self, server: Server, *names: str) -> Target | None:
        """One of the engines that run now; None while none does."""
        engines = server.engines() if server.is_ready else {}
        there = [engines[name] for name in names if name in engines]
        return self.chance.choice(there) if there else None

    async def _kill_engine(self) -> None:
        engine = self._engine(self.stage.gateway, *OWN)
        if engine is not None:
            engine.send(signal.SIGKILL)

    async def _stop_engine(self) -> None:
        await self._stopped(self._engine(self.stage.gateway, *OWN))

    async def _kill_remote_engine(self) -> None:
        engine = self._engine(self.stage.remote, "amuse-draft")
        if engine is not None:
            engine.send(signal.SIGKILL)

    async def _stop_remote(self) -> None:
        if self.stage.remote.is_ready:
            await self._stopped(Target(self.stage.remote.pid))

    async def _kill_remote(self) -> None:
        """And start it again after a while."""
        remote = self.stage.remote
        if not remote.is_ready:
            return
        engines = remote.engines()
        remote.kill()
        await asyncio.sleep(self.chance.uniform(0.0, 3.0))
        await remote.start()
        for engine in engines.values():
            if not await gone(engine, _ORPHAN_S):
                self.violations.append(f"engine {engine.pid} lives on {_ORPHAN_S:g} s after its server was killed")
                engine.send(signal.SIGKILL)

    async def _cut(self) -> None:
        self.stage.cable.cut()

    async def _unplug(self) -> None:
        cable = self.stage.cable
        cable.is_unplugged = True
        cable.cut()
        try:
            await asyncio.sleep(self.chance.uniform(0.5, 5.0))
        finally:
            cable.is_unplugged = False

    async def _reload(self) -> None:
        """The same file, written once more: everything that it says is checked and taken over."""
        _write_again(self.stage.configuration)
        Target(self.stage.gateway.pid).send(signal.SIGHUP)

    async def _stopped(self, target: Target | None) -> None:
        if target is None or not target.send(signal.SIGSTOP):
            return
        try:
            await asyncio.sleep(self.chance.uniform(0.1, _LONGEST_STOP_S))
        finally:
            target.send(signal.SIGCONT)


def _write_again(file: Path) -> None:
    temporary = file.with_suffix(".new")
    temporary.write_text(file.read_text() + "# again\n")
    temporary.replace(file)
