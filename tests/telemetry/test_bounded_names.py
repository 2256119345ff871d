from servery.telemetry.bounded_names import OTHER, BoundedNames


def test_what_comes_first_keeps_its_name_and_what_comes_later_is_other() -> None:
    name = BoundedNames(2)
    assert [name(each) for each in ("a", "b", "c", "a", "b", "d")] == ["a", "b", OTHER, "a", "b", OTHER]


def test_what_does_not_look_like_a_name_is_other_and_takes_no_place() -> None:
    name = BoundedNames(2)
    odd = ["", "two words", "x" * 65, 'quo"te', "line\nbreak", "größe"]
    assert [name(each) for each in odd] == [OTHER] * len(odd)
    assert [name(each) for each in ("status_503", "rate-limit.exceeded:v2")] == ["status_503", "rate-limit.exceeded:v2"]


def test_a_flood_of_names_makes_no_more_than_its_limit() -> None:
    name = BoundedNames(64)
    assert len({name(f"error_{at}") for at in range(10_000)}) == 65
