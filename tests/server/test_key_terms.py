import pytest

from servery.server.key_terms import one_line, parse_expiry, parse_label, parse_overlap

NOW_S = 1_800_000_000.0  # 2027-01-15T08:00:00Z


@pytest.mark.parametrize(
    ("given", "seconds"), [("0", 0.0), ("0s", 0.0), ("0 ms", 0.0), ("0.0h", 0.0), ("2h", 7200.0), ("0.5s", 0.5)]
)
def test_an_overlap_may_be_none_in_any_unit(given: str, seconds: float) -> None:
    assert parse_overlap(given) == seconds


@pytest.mark.parametrize("given", ["", "long", "5", "-1s", "s"])
def test_what_is_no_overlap_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="is not a time with its unit"):
        parse_overlap(given)


def test_a_key_ends_in_the_future() -> None:
    assert parse_expiry("2027-01-16", NOW_S) == 1_800_057_600.0
    assert parse_expiry("1h", NOW_S) == NOW_S + 3600
    for over in ("2027-01-15", "2027-01-15T08:00:00Z", "1999-01-01"):
        with pytest.raises(ValueError, match=f"'{over}' is over; write a day or a moment to come"):
            parse_expiry(over, NOW_S)


def test_names_are_one_line_that_can_be_shown() -> None:
    assert parse_label("mobile app \u00e9") == "mobile app \u00e9"
    for bad in ("two\nlines", "\x1b[2Jgone", "\u202eevil", "nul\0", "\ud800"):
        with pytest.raises(ValueError, match="has characters that cannot be shown"):
            parse_label(bad)
    with pytest.raises(ValueError, match="it has 201 characters; write at most 200"):
        parse_label("x" * 201)
    assert one_line("a\n\x1b[2J\u202eb") == "a\\n\\x1b[2J\\u202eb"
