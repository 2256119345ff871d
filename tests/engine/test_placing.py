"""Weights on their way to a GPU: pieces that cover everything once, whatever the tensor; CUDA is stood in for."""

import contextlib
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from servery.engine import placing
from servery.engine.placing import DevicePlacing, pieces_of, read_ahead


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


def test_reading_ahead_leaves_memory_as_it_is() -> None:
    tensor = torch.arange(100_000.0).view(1000, 100)
    read_ahead(tensor[5:700, 3:9])
    read_ahead(torch.empty(0))
    assert torch.equal(tensor.flatten(), torch.arange(100_000.0))
