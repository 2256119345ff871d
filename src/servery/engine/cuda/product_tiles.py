"""How products with codes cut their work, and from how many rows on they are not made: to begin with, and to choose from."""

from dataclasses import dataclass

# From so many rows on codes are turned into numbers first, unless it was measured.
MANY_ROWS = 96


@dataclass(frozen=True, slots=True)
class ProductTile:
    """`rows` of x and `columns` of the result at a time, by so many warps, loading `stages` tiles ahead."""

    rows: int
    columns: int
    warps: int = 4
    stages: int = 4


FEW_ROWS = (
    ProductTile(16, 64),
    ProductTile(16, 32),
    ProductTile(16, 128),
    ProductTile(16, 64, 8, 5),
    ProductTile(16, 32, 2, 5),
)
# The one tile where what is computed for a row must not depend on how many there are.
INVARIANT = ProductTile(64, 64, 4, 3)
