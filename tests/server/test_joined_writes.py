"""What is written in one turn of the loop leaves in one piece, in order, and nothing is lost at the end."""

import asyncio

from servery.server.joined_writes import JoinedWrites


class Recorder:
    """A transport that notes what is done to it."""

    def __init__(self) -> None:
        self.pieces: list[bytes | str] = []
        self.closing = False

    def write(self, data: bytes) -> None:
        self.pieces.append(data)

    def close(self) -> None:
        self.pieces.append("closed")
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing


def joined(recorder: Recorder) -> JoinedWrites:
    return JoinedWrites(recorder, asyncio.get_running_loop())  # type: ignore[arg-type]


def test_the_writes_of_one_turn_are_one() -> None:
    async def story() -> list[bytes | str]:
        recorder = Recorder()
        transport = joined(recorder)
        transport.write(b"head ")
        transport.write(b"first")
        assert recorder.pieces == []
        await asyncio.sleep(0)
        transport.write(b"second")
        await asyncio.sleep(0)
        return recorder.pieces

    assert asyncio.run(story()) == [b"head first", b"second"]


def test_close_sends_what_is_held_first_and_only_once() -> None:
    async def story() -> list[bytes | str]:
        recorder = Recorder()
        transport = joined(recorder)
        transport.write(b"last words")
        transport.close()
        await asyncio.sleep(0)
        return recorder.pieces

    assert asyncio.run(story()) == [b"last words", "closed"]


def test_a_connection_that_is_gone_is_written_to_no_more() -> None:
    async def story() -> list[bytes | str]:
        recorder = Recorder()
        transport = joined(recorder)
        transport.write(b"too late")
        recorder.closing = True
        await asyncio.sleep(0)
        return recorder.pieces

    assert asyncio.run(story()) == []


def test_everything_else_is_the_transports_own() -> None:
    async def story() -> bool:
        recorder = Recorder()
        recorder.closing = True
        closing: bool = joined(recorder).is_closing()
        return closing

    assert asyncio.run(story())
