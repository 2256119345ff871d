"""Closing leaves a client time to send what it has begun, and not more time than that."""

import asyncio

import pytest

from servery.server import lingering_close
from servery.server.lingering_close import LingeringClose


class Recorder:
    """A transport that notes what is done to it."""

    def __init__(self) -> None:
        self.done: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.done.append(data)

    def write_eof(self) -> None:
        self.done.append("eof")

    def resume_reading(self) -> None:
        self.done.append("reads")

    def close(self) -> None:
        self.done.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.done


def test_a_client_that_has_sent_all_is_closed_at_once() -> None:
    async def story() -> None:
        recorder = Recorder()
        transport = LingeringClose(recorder, asyncio.get_running_loop(), lambda: False)
        transport.write(b"answer")
        transport.close()
        transport.close()
        assert (recorder.done, transport.is_lingering) == ([b"answer", "closed"], False)

    asyncio.run(story())


def test_a_client_that_sends_is_told_the_end_and_read_until_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering_close, "LINGER_S", 0.01)

    async def story() -> None:
        recorder = Recorder()
        transport = LingeringClose(recorder, asyncio.get_running_loop(), lambda: True)
        transport.write(b"answer")
        transport.close()
        transport.write(b"too late")
        transport.close()
        assert (recorder.done, transport.is_lingering, transport.is_closing()) == (
            [b"answer", "eof", "reads"],
            True,
            True,
        )
        await asyncio.sleep(0.05)
        assert recorder.done == [b"answer", "eof", "reads", "closed"]

    asyncio.run(story())


def test_a_client_that_closes_first_leaves_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering_close, "LINGER_S", 0.01)

    async def story() -> None:
        recorder = Recorder()
        transport = LingeringClose(recorder, asyncio.get_running_loop(), lambda: True)
        transport.close()
        transport.lost()
        await asyncio.sleep(0.05)
        assert recorder.done == ["eof", "reads"]

    asyncio.run(story())
