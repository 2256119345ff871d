"""The rig: a model server and a load generator in C, compiled into the cache, both on another core than the gateway."""

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

_SOURCES = Path(__file__).parent / "native"
KEY = "sk-bench-0123456789abcdef0123456789abcdef"
MODEL = "m"
EVENTS = 32  # of a stream, 5 ms apart; [DONE] comes behind them
GAP_US = 5000
_QUESTION = "x" * 520


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is sent: `rate` requests a second whatever becomes of them, or 0 for `connections` that each wait for their answer."""

    is_stream: bool = False
    rate: float = 0.0
    connections: int = 32
    warm_s: float = 0.5
    seconds: float = 4.0


def request(*, is_stream: bool, port: int, headers: dict[str, str] | None = None, model: str = MODEL) -> bytes:
    """One whole HTTP request with a body of about 660 bytes."""
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": _QUESTION}]
    asked: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": 64}
    body = orjson.dumps({**asked, "stream": True} if is_stream else asked)
    named = {"authorization": f"Bearer {KEY}", **(headers or {})}
    fields = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n{fields}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


class Rig:
    """Its programs below `folder`, run on `core`."""

    def __init__(self, folder: Path, core: int) -> None:
        self.folder = folder
        self._pin = ["taskset", "-c", str(core)]
        folder.mkdir(parents=True, exist_ok=True)
        self._programs = {name: _compiled(name, folder) for name in ("upstream", "load")}

    @contextlib.contextmanager
    def upstream(self, port: int, gap_us: int = GAP_US) -> Iterator[subprocess.Popen[str]]:
        """Inside, a model server listens at `port`."""
        command = [*self._pin, str(self._programs["upstream"]), str(port), str(gap_us), str(EVENTS)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
            try:
                if process.stdout is None or not process.stdout.readline():
                    raise RuntimeError(f"the model server does not listen at port {port}")
                yield process
            finally:
                process.kill()

    def run(self, load: Load, port: int, sent: bytes) -> dict[str, Any]:
        """Send it; what the load generator found."""
        file = self.folder / "request"
        file.write_bytes(sent)
        numbers = [port, file, load.rate, load.connections, load.warm_s, load.seconds]
        command = [*self._pin, str(self._programs["load"]), *map(str, numbers)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if found.returncode != 0:
            raise RuntimeError(f"the load generator gave up: {found.stderr.strip() or found.returncode}")
        figures: dict[str, Any] = orjson.loads(found.stdout)
        return figures


def _compiled(name: str, folder: Path) -> Path:
    program, source = folder / name, _SOURCES / f"{name}.c"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-o", str(program), str(source)]
        subprocess.run(command, check=True)  # noqa: S603
    return program
