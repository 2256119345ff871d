"""What was measured to be quickest on a kind of GPU: kept with the package, read when an engine starts.

`benchmarks.gpu_tiles` measures it and tells what it found; a GPU that nobody measured has the tables' first choices.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from servery.engine.cuda.product_tiles import MANY_ROWS, ProductTile
from servery.engine.cuda.step_shape import StepShape
from servery.engine.cuda.tiles import Tile, TileTable

DENSE = "dense"  # the layout of numbers that are no codes
_FILE = Path(__file__).with_name("measured.json")


@dataclass(frozen=True, slots=True)
class Measured:
    """The choices for one kind of GPU.

    `attention` by the size of a head and the bytes of a computed and of a stored value; `product`, and the number of
    rows from which codes are turned into numbers, by the name of a layout ("int8", "int4", "fp8", "codebook", or
    "dense", where few rows are quicker by ours than by cuBLAS).
    `backends` names the way to compute attention for shapes in which torch's own is quicker than ours, and `small` that
    to compute a part of `small_kernels` where it is not Triton's.
    """

    attention: Mapping[tuple[int, int, int], TileTable] = field(default_factory=dict)
    product: Mapping[str, ProductTile] = field(default_factory=dict)
    many_rows: Mapping[str, int] = field(default_factory=dict)
    backends: Mapping[StepShape, str] = field(default_factory=dict)
    small: Mapping[str, str] = field(default_factory=dict)

    def rows_of(self, layout: str) -> int:
        """From so many rows on codes of a layout are turned into numbers."""
        return self.many_rows.get(layout, MANY_ROWS)

    @classmethod
    def read(cls, fields: Mapping[str, Any]) -> "Measured":
        """What `as_json` wrote."""
        return cls(
            {
                _sizes(key): TileTable(Tile(*tiles["few"]), Tile(*tiles["many"]))
                for key, tiles in fields.get("attention", {}).items()
            },
            {layout: ProductTile(*tile) for layout, tile in fields.get("product", {}).items()},
            dict(fields.get("many_rows", {})),
            {StepShape(*shape): name for *shape, name in fields.get("backends", [])},
            dict(fields.get("small", {})),
        )

    def as_json(self) -> dict[str, Any]:
        """What the file has under the name of the GPU."""
        return {
            "attention": {
                "x".join(map(str, sizes)): {"few": _numbers(table.few), "many": _numbers(table.many)}
                for sizes, table in self.attention.items()
            },
            "product": {layout: _numbers(tile) for layout, tile in self.product.items()},
            "many_rows": dict(self.many_rows),
            "backends": [[shape.is_decode, shape.rows, shape.context, name] for shape, name in self.backends.items()],
            "small": dict(self.small),
        }


@cache
def measured_on(device_name: str) -> Measured:
    """What is known of the GPUs of that name, as `torch.cuda.get_device_name` tells it."""
    return Measured.read(json.loads(_FILE.read_text()).get(device_name, {}))


def keep(device_name: str, found: Measured) -> Path:
    """Write down what was found on a GPU, in place of what was known of those of its name; returns the file."""
    known = json.loads(_FILE.read_text())
    _FILE.write_text(json.dumps({**known, device_name: found.as_json()}, indent=2) + "\n")
    measured_on.cache_clear()
    return _FILE


def _sizes(key: str) -> tuple[int, int, int]:
    head_dim, computed, stored = map(int, key.split("x"))
    return head_dim, computed, stored


def _numbers(tile: Tile | ProductTile) -> list[int]:
    return [getattr(tile, name) for name in tile.__slots__]
