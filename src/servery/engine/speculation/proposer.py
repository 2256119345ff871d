"""The seam between speculation and whatever guesses tokens ahead."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from torch import Tensor

from servery.engine.request import Sequence
from servery.engine.step import Step

# Stands in a sequence's drafts for a token that is only drafted once the step and its blocks are decided.
PENDING = -1


class Offer(NamedTuple):
    """Drafts that could follow a sequence's tokens: all, some of the first or none of them are taken.

    `kind` sorts offers by how good they are likely to be; acceptance is counted for each kind. `entry_tokens` have to
    be computed first, once, before the sequence can be drafted for.
    """

    tokens: list[int]
    kind: int = 0
    entry_tokens: int = 0


class DraftCost(NamedTuple):
    """Seconds of drafting one token for n sequences: fixed_s + per_row_s * n.

    `stops_early` says that drafting ends where it gets doubtful, so that a draft costs something only if those before
    it were likely.
    """

    fixed_s: float
    per_row_s: float
    stops_early: bool = False


class Stakes(NamedTuple):
    """What drafting has to be worth to go on, in tokens that the time would give otherwise.

    `chances` are those that a draft of each grade stands (see `confidence`), `usual` that a sequence's next one is
    taken and stands. Verifying a draft costs `row`; to draft once more, for n sequences, costs `pass_fixed + pass_row * n`.
    """

    chances: list[float]
    usual: Mapping[Sequence, float]
    row: float
    pass_fixed: float
    pass_row: float


class Drafted(NamedTuple):
    """A decided step with all of its drafts, perhaps fewer than were granted.

    `proposals` are the distributions [drafts, V] of drafts that were drawn by chance; `grades` those of every draft that
    was tried, the last of which may not have been taken.
    """

    step: Step
    proposals: Mapping[Sequence, Tensor]
    grades: Mapping[Sequence, list[int]]


class Proposer(Protocol):
    """Guesses tokens. What it knows of a sequence goes with the sequence."""

    @property
    def kinds(self) -> int:
        """How many kinds of offers there are."""

    def pass_cost(self, rows: int) -> DraftCost | None:
        """What drafting one more token takes for about `rows` sequences; None before it was ever measured."""

    def entry_s(self, tokens: int) -> float:
        """Seconds that computing `tokens` before drafting takes."""

    def offer(self, sequence: Sequence, limit: int) -> Offer | None:
        """Up to `limit` drafts for a sequence that decodes; None if it has none to offer."""

    def complete(self, step: Step, stakes: Stakes | None = None) -> Drafted:
        """Draft what is still pending in the decided step: all of it without `stakes`, else as far as it pays."""

    def prepare(self, sequence: Sequence, tokens: int) -> None:
        """Compute up to `tokens` of the sequence's entry tokens in the step to be decided, without drafting."""

    def forget(self) -> None:
        """What was computed into blocks is lost; no sequence is under way."""
