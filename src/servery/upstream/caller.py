"""Who asks."""

from dataclasses import dataclass, field

from servery.config.types import Limits, Tier


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Caller:
    """The key that a request came with: its id, whose it is, what it may ask for and how much.

    `tenant` is a digest: what is one tenant's (files, batches, cached prompts) is nobody else's. Keys of one owner are one
    tenant, so that a new key of theirs finds what the old one left. `models` and `tiers` are None where any will do.
    `is_bound`: there may be models that it may not ask for; these are as if they were not there.
    """

    tenant: bytes = b""
    key: str = ""
    owner: str = ""
    models: frozenset[str] | None = None
    tiers: frozenset[Tier] | None = None
    limits: Limits | None = None
    is_bound: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_bound", self.models is not None or self.tiers is not None)

    def may_ask(self, *names: str) -> bool:
        """Whether it may ask for a model that has these names: its own, its base's if it is an adapter, an alias."""
        return self.models is None or not self.models.isdisjoint(names)


# Whoever asks where no key is needed.
ANYBODY = Caller()
