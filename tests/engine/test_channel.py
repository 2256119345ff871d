"""Frames survive any cutting of the byte stream, and messages of every kind survive the trip."""

import socket
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servery.engine.channel import Abort, Add, CoreChannel, FrameReader, Stop, decode_config, encode_config, frame
from servery.engine.config import EngineConfig
from servery.engine.errors import LoadError
from servery.engine.request import NewRequest, SamplingParams


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(1, 50))
def test_frames_survive_any_cutting(payloads: list[bytes], cut: int) -> None:
    stream = b"".join(frame(payload) for payload in payloads)
    reader = FrameReader()
    read = [payload for at in range(0, len(stream), cut) for payload in reader.feed(stream[at : at + cut])]
    assert read == payloads


def test_core_receives_what_was_sent_in_order() -> None:
    sent = [
        Add(
            request=NewRequest(
                request_id="a",
                prompt=[1, 2, 300_000],
                params=SamplingParams(logit_bias={5: -1.5}, stop=("x",), seed=-(2**63)),
                cache_salt=b"\x00\xff",
            ),
            seed=2**63 - 1,
        ),
        Abort(request_id="a", index=0),
        Stop(),
    ]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"".join(frame(msgspec.msgpack.encode(message)) for message in sent))
        assert CoreChannel(theirs).receive(1.0) == sent


def test_receive_without_anything_to_receive_returns_at_once() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = CoreChannel(theirs)
        assert channel.receive(0.0) == []
        assert channel.receive(0.001) == []


def test_receive_says_when_the_server_is_gone() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        with pytest.raises(ConnectionResetError, match="server closed the channel"):
            CoreChannel(theirs).receive(1.0)


def test_config_survives_the_command_line(tmp_path: Path) -> None:
    config = EngineConfig(model=tmp_path / "a folder", dtype="bfloat16", kv_memory_bytes=4 << 30, prefix_cache=False)
    assert decode_config(encode_config(config)) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "int3"}, "dtype is 'int3'; choose one of auto, float32, bfloat16"),
        ({"block_size": 0}, "block_size is 0; it must be at least 1"),
        ({"kv_memory_bytes": -1}, "kv_memory_bytes is -1; it must be at least 1"),
        ({"max_running": 300}, "max_running is 300 and max_step_tokens is 256; .* raise max_step_tokens"),
    ],
)
def test_settings_outside_their_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(LoadError, match=message):
        EngineConfig(model=Path("m"), **settings)  # type: ignore[arg-type]
