"""The measurement of linear layers has every figure of both ways."""

import pytest

from benchmarks.native_linear import KINDS, measure
from tests.engine.native.kernels import VARIANTS, require


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_measured_by_either_way(kind):
    require(VARIANTS[0] if isinstance(VARIANTS[0], str) else None)
    one, two = measure(kind, (64, 128), layers=2, rows=[1, 3], rounds=2)
    assert (one["kind"], one["rows"], two["rows"]) == (kind, 1, 3)
    assert {way: len(times) for way, times in two["runs"].items()} == {"native": 2, "torch": 2}
