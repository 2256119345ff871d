"""Sizes in bytes are read as people write them, and refused with what to write instead."""

import pytest

from servery.byte_size import format_byte_size, parse_byte_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1048576", 1048576),
        ("17b", 17),
        ("512MiB", 512 << 20),
        ("4GiB", 4 << 30),
        ("4 gib", 4 << 30),
        ("4G", 4 << 30),
        ("1.5K", 1536),
        ("4GB", 4 * 10**9),
        ("0.1TiB", 109951162777),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_a_size_is_read_exactly(text: str, size: int) -> None:
    """Binary and decimal units, fractions, and integers beyond the precision of a float."""
    assert parse_byte_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "GiB", "4 GiB left", "-4GiB", "4XiB", "0", "0.0001", "nan", "1e9", "٤GiB", "4,5G"]
)
def test_anything_else_is_refused_with_the_text_and_an_example(text: str) -> None:
    """The message repeats what was given and shows what can be written."""
    with pytest.raises(ValueError, match="512MiB") as caught:
        parse_byte_size(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("size", "text"),
    [(17, "17 B"), (1536, "1.5 KiB"), (512 << 20, "512 MiB"), (4 << 30, "4 GiB"), (3 << 40, "3 TiB")],
)
def test_a_size_is_shown_in_its_largest_unit(size: int, text: str) -> None:
    """One decimal at most, none when it is zero."""
    assert format_byte_size(size) == text
