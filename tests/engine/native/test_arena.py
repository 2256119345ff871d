"""Memory for weights is their own, aligned, advised once, and goes when they go."""

import gc
import weakref

import pytest
import torch

from servery.engine.native.arena import HUGE_PAGE_BYTES, Arena

MIB = 1 << 20


def test_what_is_taken_lies_side_by_side_in_pieces_that_were_advised():
    advised = []
    arena = Arena(lambda address, size: advised.append((address, size)))
    first, second, third = arena.take(100), arena.take(63 * MIB), arena.take(2 * MIB)
    assert advised == [(first.data_ptr(), 64 * MIB), (third.data_ptr(), 64 * MIB)]
    assert second.data_ptr() == first.data_ptr() + 128
    assert [address % HUGE_PAGE_BYTES for address, _ in advised] == [0, 0]
    assert [len(each) for each in (first, second, third)] == [100, 63 * MIB, 2 * MIB]
    for value, each in enumerate((first, second[-1:], third), start=1):
        each.fill_(value)
    assert (first[0], second[-1], third[0]) == (1, 2, 3)


def test_more_than_a_piece_is_a_piece_of_its_own():
    advised = []
    arena = Arena(lambda address, size: advised.append(size))
    assert len(arena.take(70 * MIB)) == 70 * MIB
    assert advised == [70 * MIB]


def test_a_piece_goes_with_the_last_that_is_in_it(monkeypatch):
    mapped = []
    frombuffer = torch.frombuffer

    def noted(memory, dtype):
        mapped.append(weakref.ref(memory))
        return frombuffer(memory, dtype=dtype)

    monkeypatch.setattr(torch, "frombuffer", noted)
    arena = Arena(lambda address, size: None)
    kept, other = arena.take(10), arena.take(64 * MIB)
    gc.collect()
    assert [each() is None for each in mapped] == [False, False]
    del kept
    gc.collect()
    assert [each() is None for each in mapped] == [True, False]
    assert len(other) == 64 * MIB


def test_memory_that_is_not_there_is_named():
    with pytest.raises(MemoryError, match=r"^tried to allocate 4611686018427387904 bytes for packed weights: "):
        Arena(lambda address, size: None).take(1 << 62)
