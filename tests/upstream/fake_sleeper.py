"""A model whose coming and going is a script: it notes what it was told, waits for gates, and raises what is wanted."""

import asyncio

from servery.engine.errors import NotEnoughMemory


class FakeSleeper:
    """Takes `needed_bytes` while it is loaded, of the memory that `machine` has left, if it is given one."""

    def __init__(self, name: str, needed_bytes: int = 10, machine: "Machine | None" = None) -> None:
        self.name = name
        self.needed_bytes = needed_bytes
        self.memory_bytes = 0
        self.is_asleep = False
        self.told: list[str] = []
        self.fails: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.granted: list[int | None] = []
        self._machine = machine or Machine(None)
        self._machine.models.append(self)

    async def start(self, memory_bytes: int | None = None) -> None:
        self.told.append("start")
        self.granted.append(memory_bytes)
        await self._work()
        left = [size for size in (memory_bytes, self._machine.left()) if size is not None]
        if left and min(left) < self.needed_bytes:
            raise NotEnoughMemory(f"{self.name} needs {self.needed_bytes} of {min(left)}", self.needed_bytes)
        self.memory_bytes, self.is_asleep = self.needed_bytes, False

    async def stop(self) -> None:
        self.told.append("stop")
        self.memory_bytes, self.is_asleep = 0, False

    async def sleep(self) -> int:
        self.told.append("sleep")
        await self._work()
        freed, self.memory_bytes, self.is_asleep = self.memory_bytes - 1, 1, True
        return freed

    async def wake(self) -> None:
        self.told.append("wake")
        await self._work()
        self.memory_bytes, self.is_asleep = self.needed_bytes, False

    def reason(self, error: Exception) -> str:
        return str(error).replace("/models/", "")

    async def _work(self) -> None:
        await self.gate.wait()
        if self.fails:
            raise self.fails.pop(0)


class Machine:
    """Memory that several models share without anybody counting it."""

    def __init__(self, memory_bytes: int | None) -> None:
        self.memory_bytes = memory_bytes
        self.models: list[FakeSleeper] = []

    def left(self) -> int | None:
        if self.memory_bytes is None:
            return None
        return self.memory_bytes - sum(model.memory_bytes for model in self.models)
