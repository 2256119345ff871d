"""A stand-in for a GPU: torch's meta device, where everything has a shape and nothing a value.

Whoever reads a value back, or mixes in a tensor that stayed on the host, fails, as would be slow or wrong on a GPU.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")
_MOVES = ("aten::_to_copy", "aten::copy_", "aten::empty", "aten::zeros")
_READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero", "aten::masked_select")


class OneDevice(TorchDispatchMode):
    """Inside, every operation is on one device, and what would have the host wait is noted in `reads`."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func._schema.name
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        devices = {leaf.device.type for leaf in leaves if leaf.dim()}
        if len(devices) > 1 and name not in _MOVES:
            raise AssertionError(f"{name} is given tensors on {sorted(devices)}")
        if name in _READS and META.type in devices:
            self.reads.append(name)
        return func(*args, **(kwargs or {}))


def to_meta(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A `Place` for weights."""
    return tensor.to(META, dtype)


def reads_of(work: Callable[[], object]) -> list[str]:
    """What in `work` would have the host wait for the device."""
    with OneDevice() as mode:
        work()
    return mode.reads
