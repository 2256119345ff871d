"""A model that can be asked for, and where it runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from servery.config.types import ModelConfig, Price, Tier
from servery.gateway.dispatch.budget import RetryBudget
from servery.gateway.dispatch.deployment import Deployment
from servery.gateway.dispatch.earlier import EarlierAnswers
from servery.gateway.dispatch.place import Placement
from servery.gateway.dispatch.turns import Turns


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One model; `placement`, `budget` and the answers kept of before (`earlier`) are its own.

    `turns` are taken by who waits for the SLO to be kept.
    `prices` are those of its deployments, each once; `deployments` all of them, tier after tier; `name` is what clients ask
    for, `alone` the only deployment where nothing else is to be decided of it, `only_price` is that of all where it is the same,
    `placed_by` the placement's name, `tier_of` the number of each deployment's tier, from 1.
    """

    config: ModelConfig
    tiers: Sequence[Sequence[Deployment]]
    placement: Placement
    budget: RetryBudget
    prices: Sequence[Price] = ()
    earlier: EarlierAnswers | None = None
    turns: Turns = field(default_factory=lambda: Turns(0))
    name: str = field(init=False)
    deployments: Sequence[Deployment] = field(init=False)
    alone: Deployment | None = field(init=False)
    has_stand_ins: bool = field(init=False)
    only_price: Price | None = field(init=False)
    placed_by: str = field(init=False)
    tier_of: Mapping[str, int] = field(init=False)
    _parts: dict[frozenset[Tier], "Served"] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        every = [deployment for tier in self.tiers for deployment in tier]
        object.__setattr__(self, "name", self.config.name)
        object.__setattr__(self, "deployments", every)
        is_alone = len(every) == 1 and self.placement.why_alone is not None
        object.__setattr__(self, "alone", every[0] if is_alone else None)
        others = self.config.fallbacks
        has_stand_ins = bool(others.error or others.context_window or others.content_policy)
        object.__setattr__(self, "has_stand_ins", has_stand_ins)
        object.__setattr__(self, "only_price", self.prices[0] if len(self.prices) == 1 else None)
        object.__setattr__(self, "placed_by", self.config.place.value)
        # Of a deployment that stands in two tiers the first counts.
        places = [(each.name, at) for at, tier in enumerate(self.tiers, 1) for each in tier]
        object.__setattr__(self, "tier_of", dict(reversed(places)))

    def within(self, tiers: frozenset[Tier]) -> "Served":
        """The model with those of its deployments alone that are of these tiers, perhaps none."""
        part = self._parts.get(tiers)
        if part is None:
            kept = [[each for each in tier if each.config.tier in tiers] for tier in self.tiers]
            part = self._parts[tiers] = replace(self, tiers=[tier for tier in kept if tier])
        return part
