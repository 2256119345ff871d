"""The weights of a loaded adapter: for each linear of the decoder that it changes, what is added to the result."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from servery.engine.adapter_source import AdapterInfo

# Of the matrices, whatever the base is in: in bfloat16 a product of a few rows costs 40 to 90 us however thin it is, in
# float32 5 to 30 us (one thread of a Zen 4 CPU, in_features 1024, rank 16, 1 to 8 rows).
ADAPTER_DTYPE = torch.float32


class Delta:
    """`scale * B A x` for a linear whose rows are those of several modules.

    `down` [in_features, ranks] has the transposed A of all parts side by side. Each part is (the rows of the linear that
    it changes, its columns of what `down` gives, its transposed B [rank, rows], scale included).
    """

    __slots__ = ("_down", "_parts")

    def __init__(self, down: Tensor, parts: Sequence[tuple[slice, slice, Tensor]]) -> None:
        self._down = down
        self._parts = tuple(parts)

    @property
    def nbytes(self) -> int:
        """Memory of the weights."""
        return self._down.nbytes + sum(up.nbytes for _, _, up in self._parts)

    def add_to(self, out: Tensor, x: Tensor) -> None:
        """Add to `out` [rows, out_features] in place what belongs to `x` [rows, in_features], which is float32."""
        low = x.mm(self._down)
        for rows, ranks, up in self._parts:
            part = out[:, rows]
            if out.dtype is up.dtype:
                part.addmm_(low[:, ranks], up)
            else:
                part.add_(low[:, ranks].mm(up))

    def on(self, device: torch.device) -> "Delta":
        """The same on a device."""
        return Delta(self._down.to(device), [(rows, ranks, up.to(device)) for rows, ranks, up in self._parts])


class Adapter:
    """What `info` describes: deltas by the key of the linear, such as `3.qkv`."""

    __slots__ = ("deltas", "info")

    def __init__(self, info: AdapterInfo, deltas: Mapping[str, Delta]) -> None:
        self.info = info
        self.deltas = deltas

    def on(self, device: torch.device) -> "Adapter":
        """The same on a device."""
        return self if device.type == "cpu" else Adapter(self.info, {k: v.on(device) for k, v in self.deltas.items()})
