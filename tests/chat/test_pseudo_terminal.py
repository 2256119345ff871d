"""The real program in a real terminal: keys in, characters out."""

import asyncio
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.scripted_server import chunk, event, head, json_answer, scripted, stream

CHAT = "/v1/chat/completions"
CTRL_C, CTRL_D = b"\x03", b"\x04"


class TypedInto:
    """A process whose terminal is the other end of `master`; everything it shows is in `shown`."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self.shown = b""
        self._master = master
        self._more = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    def _read(self) -> None:
        with suppress(OSError):  # Linux says EIO when the other end is closed
            if data := os.read(self._master, 1 << 16):
                self.shown += data
                self._more.set()
                return
        asyncio.get_running_loop().remove_reader(self._master)

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    async def until(self, text: bytes) -> None:
        """Wait until `text` is shown, and forget what came before its end."""
        async with asyncio.timeout(60):
            while text not in self.shown:
                self._more.clear()
                await self._more.wait()
        self.shown = self.shown.partition(text)[2]


@contextmanager
def chatting(*arguments: str) -> Iterator[TypedInto]:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "servery", "chat", *arguments],
        stdin=slave,
        preexec_fn=lambda: os.login_tty(slave),  # noqa: PLW1509 - there is no other thread yet
        env={**os.environ, "TERM": "dumb"},
    )
    os.close(slave)
    terminal = TypedInto(process, master)
    try:
        yield terminal
    finally:
        process.kill()
        process.wait()
        asyncio.get_running_loop().remove_reader(master)
        os.close(master)


def test_keys_ask_interrupt_and_leave() -> None:
    """Ctrl-C ends the answer and not the program; what a model sends cannot steer the terminal; Ctrl-D leaves with 0."""
    script = {
        "/v1/models": [json_answer({"data": [{"id": "amuse"}]})],
        CHAT: [[head(), chunk(event("once upon")), asyncio.Event()], stream("\x1b[2Jthe ", "end")],
    }

    async def run() -> None:
        async with scripted(script) as server:
            with chatting("--url", server.url) as terminal:
                await terminal.until(b"/help lists the commands")
                await terminal.until(b"> ")
                terminal.press(b"a story\n")
                await terminal.until(b"once upon")
                terminal.press(CTRL_C)
                await terminal.until(b"(interrupted; Ctrl-D leaves)")
                await terminal.until(b"> ")
                terminal.press(b"go on\n")
                await terminal.until(b"[2Jthe end")
                await terminal.until(b"2 tokens")
                await terminal.until(b"> ")
                terminal.press(CTRL_D)
                assert await asyncio.to_thread(terminal.process.wait, 60) == 0
            roles = [message["role"] for message in server.bodies(CHAT)[1]["messages"]]
            assert (roles, server.gone.is_set()) == (["user", "assistant", "user"], True)

    asyncio.run(run())
