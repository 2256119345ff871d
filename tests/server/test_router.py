from dataclasses import dataclass

import pytest

from servery.server.router import Matched, Router


@dataclass(frozen=True)
class Place:
    path: str
    method: str = "GET"


LIST, MAKE = Place("/files"), Place("/files", "POST")
ONE, DROP = Place("/files/{id}"), Place("/files/{id}", "DELETE")
CONTENT, MODEL = Place("/files/{id}/content"), Place("/models/{id...}")
ROUTER = Router([LIST, MAKE, ONE, DROP, CONTENT, MODEL])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/files", Matched({"GET": LIST, "POST": MAKE})),
        ("/files/f1", Matched({"GET": ONE, "DELETE": DROP}, {"id": "f1"})),
        ("/files/f1/content", Matched({"GET": CONTENT}, {"id": "f1"})),
        ("/models/a", Matched({"GET": MODEL}, {"id": "a"})),
        ("/models/org/a", Matched({"GET": MODEL}, {"id": "org/a"})),
    ],
)
def test_a_path_leads_to_its_routes_and_to_what_their_names_stand_for(path: str, expected: Matched[Place]) -> None:
    assert ROUTER.match(path) == expected


@pytest.mark.parametrize(
    "path", ["", "/", "/files/", "/files/f1/", "/files//content", "/models/", "/models", "/file/f1"]
)
def test_a_path_that_fits_no_pattern_leads_nowhere(path: str) -> None:
    assert ROUTER.match(path) is None


def test_a_whole_path_counts_before_a_pattern_that_fits_it() -> None:
    router = Router([ONE, Place("/files/all")])

    assert router.match("/files/all") == Matched({"GET": Place("/files/all")})


def test_two_routes_for_one_method_and_path_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="two routes for GET /files"):
        Router([LIST, LIST])
