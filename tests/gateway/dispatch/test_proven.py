"""A load that nobody has seen is come to by doublings, each from one that was borne."""

import pytest

from servery.gateway.dispatch.proven import Proven


def test_the_bound_is_twice_what_was_answered_in_time() -> None:
    proven, bounds = Proven(), []
    for requests, is_in_time in (
        (1, True),
        (4, True),
        (3, True),
        (8, True),
        (16, False),
        (9, True),
        (5, False),
        (1, False),
    ):
        proven.learn(requests, is_in_time=is_in_time)
        bounds.append(proven.bound)
    assert bounds == [4, 8, 8, 16, 16, 18, 8, 4]


@pytest.mark.parametrize(
    ("requests", "doublings"), [(1, 0), (4, 0), (5, 1), (8, 1), (9, 2), (16, 2), (17, 3), (32, 3), (33, 4)]
)
def test_what_is_beyond_the_bound_is_counted_in_doublings(requests: int, doublings: int) -> None:
    assert Proven().doublings(requests) == doublings
