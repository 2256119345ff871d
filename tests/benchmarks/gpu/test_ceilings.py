"""Loading is measured with the loader's own means, whatever is in the page cache; a CPU stands in for the device."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.gpu import ceilings
from servery.engine import placing
from tests.engine.test_placing import place

__all__ = ["place"]


def test_all_tensors_come_in_groups_and_from_the_disk(place: placing.DevicePlacing, tmp_path: Path) -> None:
    tensors = {f"w{number:02}": torch.arange(40.0).view(10, 4) + number for number in range(19)}
    save_file(tensors, tmp_path / "model.safetensors")
    for _ in range(2):
        loaded = ceilings.load(tmp_path, torch.device("cpu"))
        assert loaded.there.keys() == tensors.keys()
        assert all(torch.equal(loaded.there[key], value) for key, value in tensors.items())
        assert loaded.bytes_per_s > 0
        ceilings.drop_cached(tmp_path / "model.safetensors")


def test_without_a_gpu_loading_says_so() -> None:
    rows = list(ceilings.loading(ceilings.Machine(torch.device("cpu"), is_dry=True)))
    assert [row.name for row in rows] == ["needs a GPU: nothing goes over a link here"]


@pytest.mark.parametrize("count", [0, 1, 8, 17])
def test_groups_have_all_keys_in_order(count: int) -> None:
    keys = [str(number) for number in range(count)]
    groups = list(ceilings.batched(keys, 8))
    assert [key for group in groups for key in group] == keys
    assert all(len(group) == 8 for group in groups[:-1])
