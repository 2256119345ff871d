"""The placement by which a conversation stays where its KV is; tier after tier."""

from collections import defaultdict
from collections.abc import Sequence

from servery.gateway.dispatch.affinity import by_affinity
from servery.gateway.dispatch.deployment import Deployment
from servery.gateway.dispatch.load import Load
from servery.gateway.dispatch.place import Ranked, Watch, free_first
from servery.gateway.dispatch.prefixes import PrefixIndex
from servery.gateway.dispatch.prompt import Prompts
from servery.upstream.ask import Ask


class PrefixAffinity:
    """The deployment that was sent most of the prompt before, unless it has much more to do than the others."""

    why_alone: str | None = "prefix"

    def __init__(self) -> None:
        self._index = PrefixIndex()
        self._prompts = Prompts()

    def rank(self, tiers: Sequence[Sequence[Deployment]], ask: Ask) -> Ranked:
        """Of each tier the best match below the bound in front."""
        prefix = self._prompts.of(ask).prefix
        ranked: list[Deployment] = []
        for tier in tiers:
            by_name = {each.name: each for each in tier}
            loads = defaultdict(Load, {each.name: Load(decoding=each.in_flight) for each in tier})
            ranked += [by_name[name] for name in by_affinity(list(by_name), loads, self._index, prefix)]
        return free_first(ranked, "prefix")

    def sent(self, deployment: Deployment, ask: Ask) -> Watch:
        """From here on the deployment is taken to have the prompt."""
        self._index.add(deployment.name, self._prompts.of(ask).prefix)
        return Watch()
