"""Where a request is to be sent: deployments in the order in which they are to be tried.

A placement decides over what is, without waiting and without changing anything; whoever sends the request counts its
deployment as busy at once. To add one: a class with `rank` and `sent`, and its line in `placements.py`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from servery.gateway.dispatch.deployment import Deployment, Standing
from servery.gateway.dispatch.outcome import AttemptOutcome
from servery.upstream.ask import Ask
from servery.wire.errors import ApiError


class Ranked(msgspec.Struct, frozen=True):
    """The deployments in the order in which they are to be tried; with `wait_s` none before so long, then rank again.

    `why` says in a word why the first is the first. With `refusal` a new request is to be told that; the order is for an
    answer under way, which is neither refused nor made to wait.
    """

    order: Sequence[Deployment]
    wait_s: float | None = None
    why: str = ""
    refusal: ApiError | None = None


class Watch:
    """What a placement wants to know of an attempt that was sent where it said. This one wants nothing."""

    def first_token(self) -> None:
        """The first token has come."""

    def over(self, outcome: AttemptOutcome) -> None:
        """The attempt is over, however it ended; called once."""


# Of an attempt from which nobody learns anything.
UNWATCHED = Watch()


class Placement(Protocol):
    """How a model's deployments are chosen; one instance per model, which may remember what it learnt.

    Deployments whose attempt failed, and those that say they are not ready, are tried after the others whatever the rank.
    `why_alone` is the word for the first of a model's deployments where there is no other; None where there may be more to
    decide of it than that, so that it is to be ranked.
    """

    @property
    def why_alone(self) -> str | None:
        """As above."""
        ...

    def rank(self, tiers: Sequence[Sequence[Deployment]], ask: Ask) -> Ranked:
        """The deployments in the order in which they are to be tried; all that are given, or some.

        `tiers` are the model's, those to be filled first in front, without the deployments to which nothing can be sent
        now; of these `standing` tells whether they have a place or the request would wait.
        """
        ...

    def sent(self, deployment: Deployment, ask: Ask) -> Watch:
        """The request is sent there now; what comes of it is told to the watch."""
        ...


class First:
    """The deployments as the configuration lists them: the others stand by."""

    why_alone: str | None = "listed"

    def rank(self, tiers: Sequence[Sequence[Deployment]], ask: Ask) -> Ranked:
        """As they are listed, those that have a place in front."""
        return free_first([deployment for tier in tiers for deployment in tier], "listed")

    def sent(self, deployment: Deployment, ask: Ask) -> Watch:
        """Nothing to be learnt."""
        return UNWATCHED


class Weighted:
    """By chance, in proportion to the weights; tier after tier. A weight of 0 stands by for its tier."""

    why_alone: str | None = "weight"

    def __init__(self, random: Callable[[], float]) -> None:
        """`random` gives numbers in [0, 1)."""
        self._random = random

    def rank(self, tiers: Sequence[Sequence[Deployment]], ask: Ask) -> Ranked:
        """Drawn one after the other without putting back."""
        return free_first([deployment for tier in tiers for deployment in drawn(tier, self._random)], "weight")

    def sent(self, deployment: Deployment, ask: Ask) -> Watch:
        """Nothing to be learnt."""
        return UNWATCHED


class LeastLoad:
    """The less busy of two drawn by chance, in proportion to the weights; tier after tier.

    Power of two choices (Mitzenmacher, 2001): nearly as even as looking at all, without everybody running to the same one.
    """

    why_alone: str | None = "load"

    def __init__(self, random: Callable[[], float]) -> None:
        """`random` gives numbers in [0, 1)."""
        self._random = random

    def rank(self, tiers: Sequence[Sequence[Deployment]], ask: Ask) -> Ranked:
        """Of each tier the less busy of the first two drawn in front."""
        ranked: list[Deployment] = []
        for tier in tiers:
            found = drawn(tier, self._random)
            ranked += [*sorted(found[:2], key=_load), *found[2:]]
        return free_first(ranked, "load")

    def sent(self, deployment: Deployment, ask: Ask) -> Watch:
        """Nothing to be learnt: it looks at what is."""
        return UNWATCHED


def drawn(tier: Sequence[Deployment], random: Callable[[], float]) -> list[Deployment]:
    """The deployments drawn one after the other, by their weights: the largest u^(1/w) first.

    Weighted sampling without putting back (Efraimidis and Spirakis, 2006).
    """
    if len(tier) < 2:
        return list(tier)

    def key(deployment: Deployment) -> float:
        weight = deployment.config.weight
        return -(random() ** (1 / weight)) if weight > 0 else 1.0

    return sorted(tier, key=key)


def free_first(ranked: Sequence[Deployment], why: str) -> Ranked:
    """Those that have a place before those at which the request would wait, otherwise in their order, which has its `why`."""
    if len(ranked) < 2:
        return Ranked(ranked, why=why)
    return Ranked(sorted(ranked, key=lambda each: each.standing() is not Standing.FREE), why=why)


def _load(deployment: Deployment) -> float:
    weight = deployment.config.weight
    return deployment.in_flight / weight if weight > 0 else math.inf
