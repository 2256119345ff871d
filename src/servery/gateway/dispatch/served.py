"""A model that can be asked for, and where it runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from servery.config.types import ModelConfig
from servery.gateway.dispatch.budget import RetryBudget
from servery.gateway.dispatch.deployment import Deployment
from servery.gateway.dispatch.place import Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One model; `placement` and `budget` are its own."""

    config: ModelConfig
    tiers: Sequence[Sequence[Deployment]]
    placement: Placement
    budget: RetryBudget

    @property
    def name(self) -> str:
        """What clients ask for."""
        return self.config.name

    @property
    def deployments(self) -> list[Deployment]:
        """All of them, tier after tier."""
        return [deployment for tier in self.tiers for deployment in tier]
