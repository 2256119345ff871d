"""Sizes in bytes as people write them: `4GiB`, `512MiB`, `1.5G`, `1048576`."""

import re
from decimal import Decimal

_UNITS = {
    "": 1,
    "b": 1,
    "k": 1 << 10,
    "m": 1 << 20,
    "g": 1 << 30,
    "t": 1 << 40,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", re.ASCII)


def parse_byte_size(text: str) -> int:
    """The number of bytes that `text` means: `4GiB` is 4 * 2**30, `4GB` is 4 * 10**9, `4G` is read as `4GiB`.

    Raises `ValueError` with what was given and what can be written.
    """
    match = _SIZE.fullmatch(text)
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"{text!r} is not a size; write bytes (1048576) or a number with a unit (512MiB, 4GiB, 4GB)")
    size = int(Decimal(match[1]) * _UNITS[match[2].lower()])
    if size < 1:
        raise ValueError(f"{text!r} is less than one byte; write a positive size such as 512MiB")
    return size


def format_byte_size(size: int) -> str:
    """`size` in the largest binary unit that keeps it at 1 or more: `4 GiB`, `512 MiB`, `1.5 KiB`, `17 B`."""
    for unit, scale in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= scale:
            return f"{size / scale:.1f}".removesuffix(".0") + f" {unit}"
    return f"{size} B"
