"""The configuration that is meant by `servery serve MODEL...`: every model with one embedded deployment of its name."""

from collections.abc import Callable, Mapping

from servery.config.types import Config, DeploymentConfig, Kind, ModelConfig, Place, Retry, Tier, Timeouts
from servery.gateway.fleet import Fleet
from servery.upstream.upstream import Upstream


def implied_config(names: list[str], total_s: float) -> Config:
    """An engine of this process either answers or says why not, so nothing is tried twice and only the whole is bounded."""
    timeouts = Timeouts(first_token_s=total_s, stall_s=total_s, total_s=total_s)
    models = {
        name: ModelConfig(name=name, tiers=((name,),), place=Place.FIRST, timeouts=timeouts, retry=Retry(attempts=1))
        for name in names
    }
    deployments = {
        name: DeploymentConfig(name=name, kind=Kind.EMBEDDED, tier=Tier.EMBEDDED, model=name) for name in names
    }
    return Config(models=models, deployments=deployments)


def implied_fleet(
    upstreams: Mapping[str, Upstream], total_s: float, clock: Callable[[], float], before: Fleet | None = None
) -> Fleet:
    """The fleet of upstreams that are there already, by their models' names; `before` is an earlier one of theirs."""
    config = implied_config(list(upstreams), total_s)
    return Fleet.of(config, lambda deployment: upstreams[deployment.name], clock, lambda: 0.0, before)
