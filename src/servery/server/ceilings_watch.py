"""The ceilings that engines are measured against: as a file says, as they were kept, or measured when nobody is served.

To measure takes all of the memory bandwidth for a second or two. So it is done by a process of its own after a minute in
which no step was computed, and what came of it counts only if none was meanwhile. It is kept for later starts.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

from servery.engine.stats import EngineInfo, EngineStats
from servery.telemetry.ceilings import Ceilings, kept_at, read_ceilings

log = logging.getLogger(__name__)

IDLE_S = 60.0
_LOOK_S = 5.0
_MOST_TRIES = 5
_MOST_S = 60.0


Measure = Callable[[str, int, Path], Awaitable[bool]]


class Engine(Protocol):
    """What is asked of an engine."""

    def stats(self) -> EngineStats | None:
        """Its newest figures."""

    def info(self) -> EngineInfo | None:
        """What was resolved when it was loaded; None until then."""


async def measure_machine(device: str, threads: int, path: Path) -> bool:
    """Measure in a process of its own; whether it went well."""
    words = ("-m", "servery.bench.ceilings", "--device", device, "--threads", str(threads), "--out", str(path))
    process = await asyncio.create_subprocess_exec(sys.executable, *words, stderr=asyncio.subprocess.PIPE)
    try:
        _, told = await asyncio.wait_for(process.communicate(), _MOST_S)
    except TimeoutError:
        told = b"it took too long\n"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        log.info("no MBU and MFU: %s", told.decode(errors="replace").strip()[-300:])
    return process.returncode == 0


class CeilingsWatch:
    """Knows the ceilings of the engines that `engines` gives; of a `given` file always those.

    `measure` writes those of a device and so many threads into a file.
    """

    def __init__(
        self,
        engines: Callable[[], Mapping[str, Engine]],
        given: Ceilings | None = None,
        *,
        idle_s: float = IDLE_S,
        measure: Measure = measure_machine,
        place: Callable[[str, int], Path] = kept_at,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engines = engines
        self._given = given
        self._idle_s = idle_s
        self._measure = measure
        self._place = place
        self._clock = clock
        self._known: dict[Path, Ceilings] = {}
        self._tries = 0
        self._steps = -1
        self._idle_since_s = 0.0

    def of(self, info: EngineInfo) -> Ceilings | None:
        """Those of an engine's device and threads; None while they are not known."""
        return self._given or self._known.get(self._place(info.device, info.threads))

    async def watch(self) -> None:
        """Look every few seconds what is missing, without end."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        """Take up what was kept; measure what was not, if nobody has been served for a while."""
        if self._given is not None:
            return
        for info in [info for each in self._engines().values() if (info := each.info()) is not None]:
            path = self._place(info.device, info.threads)
            if path not in self._known and not self._take_up(path) and self._is_idle() and self._tries < _MOST_TRIES:
                await self._measured(info, path)

    def _take_up(self, path: Path) -> bool:
        if not path.exists():
            return False
        try:
            self._known[path] = read_ceilings(path)
        except ValueError as error:
            log.warning("what this machine can do is measured again: %s", error)
            return False
        return True

    def _is_idle(self) -> bool:
        """Whether no step has been computed for long enough."""
        now, steps = self._clock(), self._all_steps()
        if steps != self._steps:
            self._steps, self._idle_since_s = steps, now
        return now - self._idle_since_s >= self._idle_s

    def _all_steps(self) -> int:
        return sum(stats.steps for each in self._engines().values() if (stats := each.stats()) is not None)

    async def _measured(self, info: EngineInfo, path: Path) -> None:
        self._tries += 1
        fresh = path.with_suffix(".new")
        try:
            is_done = await self._measure(info.device, info.threads, fresh)
            if is_done and self._all_steps() == self._steps:
                fresh.replace(path)
                self._take_up(path)
        except OSError as error:
            log.info("no MBU and MFU: %s", error)
        finally:
            fresh.unlink(missing_ok=True)
