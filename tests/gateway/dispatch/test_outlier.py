from servery.gateway.dispatch.deployment import Deployment
from servery.gateway.dispatch.outlier import outliers
from tests.gateway.scripted import Scripted, deployment


def peers(**figures: tuple[int, int]) -> list[Deployment]:
    """Deployments with so many answers that were well, and so many that failed, interleaved."""
    made = []
    for name, (well, failed) in figures.items():
        place = Deployment(deployment(name), Scripted(()), lambda: 100.0)
        for at in range(well + failed):
            is_failed = at * failed // (well + failed) < (at + 1) * failed // (well + failed)
            (place.breaker.fail if is_failed else place.breaker.succeed)(100.0, is_probe=False)
        made.append(place)
    return made


def names(found: list[Deployment]) -> list[str]:
    return [each.name for each in found]


def test_one_that_fails_far_more_than_its_peers_is_found() -> None:
    assert names(outliers(peers(a=(10, 0), b=(10, 1), c=(7, 4)), 100.0)) == ["c"]


def test_when_all_fail_alike_nobody_is() -> None:
    assert outliers(peers(a=(7, 4), b=(7, 4), c=(7, 4)), 100.0) == []


def test_two_peers_or_few_answers_prove_nothing() -> None:
    assert outliers(peers(a=(10, 0), b=(7, 4)), 100.0) == []
    assert outliers(peers(a=(10, 0), b=(10, 0), c=(2, 1)), 100.0) == []


def test_never_are_more_than_half_away_and_the_worst_go_first() -> None:
    of_five = peers(a=(20, 0), b=(20, 0), c=(13, 7), d=(12, 8), e=(20, 0))
    assert names(outliers(of_five, 100.0)) == ["d", "c"]
    of_five[0].breaker.eject(100.0)
    assert names(outliers(of_five, 100.0)) == ["d"]
    of_five[3].breaker.eject(100.0)
    assert outliers(of_five, 100.0) == []
