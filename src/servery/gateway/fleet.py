"""What a configuration makes of the deployments: every model with the places where it runs. A snapshot, never changed.

An exchange keeps the one it began with; of places that a later configuration leaves as they are, what is known (requests
under way, failures, throttles) goes over to the later snapshot.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from servery.config.types import Config, DeploymentConfig, ModelConfig, Overload
from servery.gateway.dispatch.budget import RetryBudget
from servery.gateway.dispatch.deployment import Deployment
from servery.gateway.dispatch.earlier import EarlierAnswers
from servery.gateway.dispatch.place import Placement
from servery.gateway.dispatch.placements import Surroundings, placement
from servery.gateway.dispatch.served import Served
from servery.gateway.dispatch.slo_placement import CheapestWithinSlo
from servery.gateway.dispatch.turns import Turns
from servery.upstream.caller import Caller
from servery.upstream.upstream import Upstream
from servery.wire.errors import model_not_found


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """All models and deployments of one configuration."""

    config: Config
    models: Mapping[str, Served]
    deployments: Mapping[str, Deployment]

    @classmethod
    def of(
        cls,
        config: Config,
        upstream: Callable[[DeploymentConfig], Upstream],
        clock: Callable[[], float],
        random: Callable[[], float],
        before: "Fleet | None" = None,
    ) -> "Fleet":
        """The fleet of a configuration; `upstream` makes what speaks to a deployment that `before` did not have.

        It changes nothing of `before`, so one that cannot be made leaves no trace; `enforce` puts it in force.
        """
        deployments = {name: _deployment(each, upstream, clock, before) for name, each in config.deployments.items()}
        models = {
            name: Served(
                config=model,
                tiers=tuple(tuple(deployments[each] for each in tier) for tier in model.tiers),
                placement=_placement(model, clock, random, before),
                budget=_budget(model, before),
                prices=tuple({deployments[each].config.price for each in model.deployments}),
                earlier=_earlier(model, before),
                turns=_turns(model, sum(deployments[each].config.max_queue for each in model.deployments), before),
            )
            for name, model in config.models.items()
        }
        return cls(config=config, models=models, deployments=deployments)

    def served(self, model: str) -> Served:
        """Where a model runs; raises `ApiError` (404) naming those that are served."""
        if model not in self.models:
            raise model_not_found(model, self.models)
        return self.models[model]

    def enforce(self) -> None:
        """Let its bounds count at the places that it has in common with an earlier one, and what changes there wake
        who waits for it; cannot fail.
        """
        for deployment in self.deployments.values():
            deployment.enforce()
        for served in self.models.values():
            if served.config.overload is Overload.QUEUE:
                for deployment in served.deployments:
                    deployment.followers.add(served.turns)

    def is_for(self, caller: Caller, base: str, *names: str) -> bool:
        """Whether a caller may ask for the model `base` by any of its names, and be answered where it runs."""
        if not caller.may_ask(base, *names):
            return False
        if caller.tiers is None:
            return True
        return base in self.models and bool(self.models[base].within(caller.tiers).tiers)

    def dropped(self, before: "Fleet") -> list[Deployment]:
        """The deployments of an earlier fleet whose places this one has no more."""
        kept = {id(each.upstream) for each in self.deployments.values()}
        return [each for each in before.deployments.values() if id(each.upstream) not in kept]


def _deployment(
    config: DeploymentConfig,
    upstream: Callable[[DeploymentConfig], Upstream],
    clock: Callable[[], float],
    before: Fleet | None,
) -> Deployment:
    known = None if before is None else before.deployments.get(config.name)
    if known is not None and _place(known.config) == _place(config):
        return known.configured(config)
    return Deployment(config, upstream(config), clock)


def _place(config: DeploymentConfig) -> tuple[object, ...]:
    """What cannot be changed without being another place: whom one speaks to, and how."""
    key = None if config.api_key is None else config.api_key.reveal()
    headers = tuple(sorted((name, value.reveal()) for name, value in config.headers.items()))
    settings = tuple(sorted((name, repr(value)) for name, value in config.engine.items()))
    return (
        config.kind, config.model, config.url, key, headers, config.ca_file, config.region, config.apis, settings,
        config.health, config.continues,
    )  # fmt: skip


def _placement(
    model: ModelConfig, clock: Callable[[], float], random: Callable[[], float], before: Fleet | None
) -> Placement:
    """What the earlier placement learnt is kept as long as the model is placed the same way, by the same SLO."""
    known = None if before is None else before.models.get(model.name)
    if known is not None and known.config.place is model.place and known.config.slo == model.slo:
        learnt = known.placement
        return learnt.configured(model) if isinstance(learnt, CheapestWithinSlo) else learnt
    return placement(Surroundings(model=model, clock=clock, random=random))


def _turns(model: ModelConfig, limit: int, before: Fleet | None) -> Turns:
    """As many wait for the SLO to be kept as may wait at all of the model's deployments."""
    known = None if before is None else before.models.get(model.name)
    return known.turns if known is not None and known.turns.limit == limit else Turns(limit)


def _earlier(model: ModelConfig, before: Fleet | None) -> EarlierAnswers | None:
    known = None if before is None else before.models.get(model.name)
    if known is not None and known.earlier is not None and known.earlier.policy == model.earlier:
        return known.earlier
    return None if model.earlier is None else EarlierAnswers(model.earlier)


def _budget(model: ModelConfig, before: Fleet | None) -> RetryBudget:
    known = None if before is None else before.models.get(model.name)
    if known is not None and known.budget.ratio == model.retry.budget:
        return known.budget
    return RetryBudget(model.retry.budget)
