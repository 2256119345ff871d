"""Times, shares and money are read exactly, or refused."""

import pytest

from servery.config.units import parse_dollars, parse_duration, parse_share


@pytest.mark.parametrize(
    ("given", "seconds"), [("500ms", 0.5), ("2s", 2.0), ("1.5m", 90.0), ("1 h", 3600.0), (" 20us ", 2e-5)]
)
def test_a_time_has_a_unit(given: str, seconds: float) -> None:
    assert parse_duration(given) == seconds


@pytest.mark.parametrize("given", [5, 5.0, "5", "5 sec", "-1s", "", None, True, "1e3s", "\u0661s", "0s"])
def test_a_time_without_its_unit_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="500ms"):
        parse_duration(given)


@pytest.mark.parametrize(("given", "share"), [("99%", 0.99), (0.5, 0.5), ("0.25", 0.25), (1, 1.0), ("99.9%", 0.999)])
def test_a_share_is_a_number_or_percent(given: object, share: float) -> None:
    assert parse_share(given) == share


@pytest.mark.parametrize("given", [2, "101%", -0.1, "half", None, True, []])
def test_what_is_no_share_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        parse_share(given)


@pytest.mark.parametrize(
    ("given", "micro"),
    [(0.15, 150_000), ("2.35", 2_350_000), ("$3 USD", 3_000_000), (0.000001, 1), (0, 0), (10, 10**7)],
)
def test_money_is_counted_in_whole_millionths(given: object, micro: int) -> None:
    assert parse_dollars(given) == micro


@pytest.mark.parametrize("given", ["a lot", -1, None, True, "1,5", 1e-7, 1e30, "1e999999999"])
def test_what_is_no_amount_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="dollar"):
        parse_dollars(given)
