"""Weights on their way to a GPU: pieces that cover everything once, whatever the tensor; CUDA is stood in for."""

import contextlib
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from servery.engine import placing
from servery.engine.architecture import ModelConfig
from servery.engine.parallel.part import Part, Ranks
from servery.engine.placing import DevicePlacing, pieces_of, read_ahead
from servery.engine.weights import open_weights
from tests.engine import checkpoints


class Stream:
    def __init__(self, *device: object) -> None: ...
    def wait_stream(self, other: object) -> None: ...
    def synchronize(self) -> None: ...


class Event:
    def record(self, stream: object) -> None: ...
    def synchronize(self) -> None: ...


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[DevicePlacing]:
    """To the CPU, in pieces of 100 bytes."""
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(placing, "PIECE_BYTES", 100)
    monkeypatch.setattr(placing, "pinned", lambda nbytes: torch.empty(nbytes, dtype=torch.uint8))
    made = DevicePlacing(torch.device("cpu"))
    yield made
    made.close()


@given(st.integers(0, 500), st.integers(1, 300), st.integers(1, 400))
def test_pieces_cover_all_rows_once_and_fit(num_rows: int, row_bytes: int, piece_bytes: int) -> None:
    pieces = list(pieces_of(num_rows, row_bytes, piece_bytes))
    assert [row for piece in pieces for row in range(num_rows)[piece]] == list(range(num_rows))
    assert all((p.stop - p.start) * row_bytes <= piece_bytes or p.stop - p.start == 1 for p in pieces)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(1000.0),
        torch.arange(1200.0).view(60, 20)[:, 3:11],  # some columns of a matrix
        torch.arange(600.0).view(3, 200),  # rows longer than a buffer
        torch.tensor(7.0),
        torch.empty(0, 4),
        torch.arange(300, dtype=torch.uint8).view(30, 10),
    ],
    ids=["vector", "columns", "long rows", "number", "nothing", "codes"],
)
def test_every_value_arrives(place: DevicePlacing, tensor: torch.Tensor) -> None:
    dtype = torch.bfloat16 if tensor.is_floating_point() else tensor.dtype
    there = place(tensor, dtype)
    assert torch.equal(there, tensor.to(dtype))
    assert there.data_ptr() != tensor.data_ptr() or not tensor.numel()
    assert place.meter.nbytes == tensor.nbytes


def test_what_is_expected_is_moved_once_and_before_it_is_asked_for(place: DevicePlacing) -> None:
    tensors = [torch.arange(60.0) + number for number in range(5)]
    place.expect(tensors[:3])
    place.expect(tensors[1:4])  # what is on its way already stays there
    place.expect([tensors[2].view(6, 10)])  # the same place seen otherwise
    begun = {number: place._on_their_way[placing._key_of(tensors[number])].there for number in range(4)}
    for number in (1, 0, 2, 4):
        there = place(tensors[number], torch.float32)
        assert torch.equal(there, tensors[number])
        assert there.data_ptr() == begun.get(number, there).data_ptr()
    assert place.meter.nbytes == 4 * 240
    place.close()  # with what nobody asked for
    assert place._on_their_way == {}


def test_small_tensors_are_moved_side_by_side(place: DevicePlacing, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is held up until another has been moved: one after the other none would ever come."""
    second_moved, move = threading.Event(), DevicePlacing._move
    tensors = [torch.full((5,), 1.0), torch.full((5,), 2.0)]

    def held_up(self: DevicePlacing, rows: torch.Tensor, target: torch.Tensor) -> None:
        if float(rows[0]) == 1.0:
            assert second_moved.wait(60)
        move(self, rows, target)
        if float(rows[0]) == 2.0:
            second_moved.set()

    monkeypatch.setattr(DevicePlacing, "_move", held_up)
    place.expect(tensors)
    assert [place(tensor, torch.float32).tolist() for tensor in tensors] == [[1.0] * 5, [2.0] * 5]


class Watcher:
    """A placing that writes down what it is told to expect, and what it is asked for."""

    def __init__(self) -> None:
        self.expected: list[list[object]] = []
        self.asked: list[object] = []

    def expect(self, tensors: Iterable[torch.Tensor]) -> None:
        self.expected.append([placing._key_of(tensor) for tensor in tensors])

    def __call__(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        self.asked.append(placing._key_of(tensor))
        return tensor.to(dtype, copy=True)


@pytest.mark.parametrize("ranks", [None, Ranks(2, 1, 1), Ranks(1, 3, 1)], ids=str)
@pytest.mark.parametrize("name", ["qwen3", "mixtral"])
def test_a_layer_is_on_its_way_while_the_one_before_it_is_read(name: str, ranks: Ranks | None, tmp_path: Path) -> None:
    path = checkpoints.save(getattr(checkpoints, name)(), tmp_path)
    config = ModelConfig.load(path)
    part = None if ranks is None else Part(config, ranks)
    layers = range((config if part is None else part.config).num_layers)
    with open_weights(path, config, torch.float32, part=part) as reader:
        watcher = Watcher()
        for layer in layers:
            reader.read(layer, place=watcher)
            assert len(watcher.expected) == layer + 2  # its own, and the next one's
        assert watcher.expected[-1] == []  # there is none after the last
        reader.read(None, place=watcher)
    expected = [key for keys in watcher.expected for key in keys]
    assert len(set(expected)) == len(expected)
    assert set(expected) <= set(watcher.asked), "nothing is moved that nobody asks for"
    assert len(expected) > 0.6 * len(watcher.asked)


def test_reading_ahead_leaves_memory_as_it_is() -> None:
    tensor = torch.arange(100_000.0).view(1000, 100)
    read_ahead(tensor[5:700, 3:9])
    read_ahead(torch.empty(0))
    assert torch.equal(tensor.flatten(), torch.arange(100_000.0))
