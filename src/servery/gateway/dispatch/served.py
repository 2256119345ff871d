"""A model that can be asked for, and where it runs."""

from collections.abc import Container, Sequence
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
    `prices` are those of its deployments, each once.
    """

    config: ModelConfig
    tiers: Sequence[Sequence[Deployment]]
    placement: Placement
    budget: RetryBudget
    prices: Sequence[Price] = ()
    earlier: EarlierAnswers | None = None
    turns: Turns = field(default_factory=lambda: Turns(0))

    @property
    def name(self) -> str:
        """What clients ask for."""
        return self.config.name

    @property
    def deployments(self) -> list[Deployment]:
        """All of them, tier after tier."""
        return [deployment for tier in self.tiers for deployment in tier]

    def within(self, tiers: Container[Tier]) -> "Served":
        """The model with those of its deployments alone that are of these tiers, perhaps none."""
        kept = [[each for each in tier if each.config.tier in tiers] for tier in self.tiers]
        return replace(self, tiers=[tier for tier in kept if tier])
