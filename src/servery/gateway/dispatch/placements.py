"""Which placement is meant by the name that a configuration has for it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from servery.config.types import ModelConfig, Place
from servery.gateway.dispatch.place import First, LeastLoad, Placement, Weighted
from servery.gateway.dispatch.prefix_affinity import PrefixAffinity
from servery.gateway.dispatch.slo_placement import CheapestWithinSlo


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a placement may use besides what it is given: the model's configuration, a clock, chance."""

    model: ModelConfig
    clock: Callable[[], float]
    random: Callable[[], float]


PLACEMENTS: Mapping[Place, Callable[[Surroundings], Placement]] = {
    Place.FIRST: lambda around: First(),
    Place.WEIGHTED: lambda around: Weighted(around.random),
    Place.LEAST_LOAD: lambda around: LeastLoad(around.random),
    Place.PREFIX_AFFINITY: lambda around: PrefixAffinity(),
    Place.CHEAPEST_WITHIN_SLO: lambda around: CheapestWithinSlo(around.model, around.clock),
}


def placement(around: Surroundings) -> Placement:
    """The placement that the model's configuration names; raises `ValueError` for one that is not there."""
    make = PLACEMENTS.get(around.model.place)
    if make is None:
        known = ", ".join(place.value for place in PLACEMENTS)
        raise ValueError(
            f"model '{around.model.name}': there is no placement '{around.model.place.value}', only {known}"
        )
    return make(around)
