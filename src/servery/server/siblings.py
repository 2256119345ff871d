"""The metrics of several workers on one page: whoever is asked asks the others, by sockets in a folder that they share.

Every sample is marked with its worker's number, so that nothing is added up which must not be, and the counters of a worker
that was started again begin anew without making a sum go back.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

_PATIENCE_S = 2.0


class Siblings:
    """One of `count` workers, by its number; `render` gives its own page."""

    def __init__(self, folder: Path, number: int, count: int, render: Callable[[], Awaitable[bytes]]) -> None:
        self._folder = folder
        self._number = number
        self._count = count
        self._render = render

    async def listen(self) -> asyncio.Server:
        """Let the others ask; close what is returned at the end."""
        path = self._path(self._number)
        path.unlink(missing_ok=True)  # of the one whose place this one took
        return await asyncio.start_unix_server(self._tell, path)

    async def page(self) -> bytes:
        """The metrics of all that answer."""
        own, others = await self._render(), await self.pages()
        told = {self._number: own, **dict(zip(self._others, others, strict=True))}
        return merged([(str(number), told[number]) for number in sorted(told)])

    async def pages(self) -> list[bytes]:
        """Those of the others, empty of one that does not answer."""
        return await asyncio.gather(*map(self._ask, self._others))

    @property
    def _others(self) -> list[int]:
        return [number for number in range(self._count) if number != self._number]

    async def _ask(self, number: int) -> bytes:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                reader, writer = await asyncio.open_unix_connection(self._path(number))
                try:
                    return await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError):  # it is being started again; its samples are missing meanwhile
            return b""

    async def _tell(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await self._render())
        writer.close()

    def _path(self, number: int) -> Path:
        return self._folder / f"worker-{number}"


def merged(pages: Sequence[tuple[str, bytes]]) -> bytes:
    """Pages in Prometheus' text format as one, each sample with the label `worker`."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for worker, page in pages:
        name = ""
        for line in page.decode().splitlines():
            if line.startswith("# "):
                kind, name = line.split(" ", 3)[1:3]
                if not any(each.startswith(f"# {kind} ") for each in heads.setdefault(name, [])):
                    heads[name].append(line)
            elif line:
                samples.setdefault(name, []).append(_marked(line, worker))
    lines = [line for name, head in heads.items() for line in (*head, *samples.get(name, ()))]
    return "".join(f"{line}\n" for line in lines).encode()


def _marked(line: str, worker: str) -> str:
    name, brace, rest = line.partition("{")
    if brace:
        return f'{name}{{worker="{worker}",{rest}'
    name, _, value = line.partition(" ")
    return f'{name}{{worker="{worker}"}} {value}'
