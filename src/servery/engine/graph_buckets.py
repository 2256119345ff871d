"""For how many rows a step of decoding is captured: a step of other sizes is padded to the next. No torch."""

from bisect import bisect_left

# Up to here every size that is a multiple has a graph of its own.
_SMALL = (1, 2, 4, 8)
_STEP = 8
_LARGE_FROM = 64
_LARGE_STEP = 32
_FIRST_CONTEXT = 2048


def buckets(max_rows: int) -> tuple[int, ...]:
    """Ascending; the last is `max_rows`. Padding is at most a half below 8 rows, and below a third above."""
    sizes = [*_SMALL, *range(2 * _STEP, _LARGE_FROM, _STEP), *range(_LARGE_FROM, max_rows, _LARGE_STEP)]
    return (*(size for size in sizes if size < max_rows), max_rows)


def bucket_of(rows: int, sizes: tuple[int, ...]) -> int | None:
    """The smallest of `sizes` with room for `rows`; None where there is none."""
    at = bisect_left(sizes, rows)
    return sizes[at] if at < len(sizes) else None


def context_bucket(longest: int, most: int) -> int:
    """The contexts that a step is captured for whose longest is `longest`: four times as many each time, up to `most`."""
    size = _FIRST_CONTEXT
    while size < longest:
        size *= 4
    return min(size, most)
