"""Two runs over the same tasks, answer by answer: what was lost, what was gained, and how sure that is."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from servery.evals.computed import Computed
from servery.evals.errors import ResultFileError
from servery.evals.results import Item, Results
from servery.evals.statistics import Interval, Pairs, difference_interval, mcnemar, wilson


@dataclass(frozen=True, slots=True)
class StratumScore:
    """How one system did in one stratum; `missing` tasks have no answer and are in no share."""

    stratum: str
    n: int
    right: int
    missing: int
    interval: Interval

    @property
    def accuracy(self) -> float | None:
        """The share of right answers."""
        return self.right / self.n if self.n else None


@dataclass(frozen=True, slots=True)
class StratumComparison:
    """How two systems differ in one stratum. `interval` is of candidate minus baseline, None where n is 0."""

    stratum: str
    pairs: Pairs
    missing: int
    interval: Interval | None
    p_value: float


@dataclass(frozen=True, slots=True)
class Flip:
    """A task that one system got right and the other wrong."""

    id: str
    stratum: str
    is_loss: bool
    baseline: str
    candidate: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """All strata, the whole as if it were one, every flip, and by what each of the two was computed."""

    strata: list[StratumComparison]
    whole: StratumComparison
    flips: list[Flip]
    baseline: Computed | None
    candidate: Computed | None


def scores(found: Results) -> list[StratumScore]:
    """The accuracy of each stratum of a run, in the order of the task file, and of all tasks last."""
    right = Counter(item.stratum for item in found.answered.values() if item.is_right)
    n = Counter(item.stratum for item in found.answered.values())
    missing = found.num_missing
    rows = [_score(name, n[name], right[name], missing[name]) for name in found.header.tasks.strata]
    return [*rows, _score("(all)", n.total(), right.total(), sum(missing.values()))]


def _score(stratum: str, n: int, right: int, missing: int) -> StratumScore:
    return StratumScore(stratum, n, right, missing, wilson(right, n))


def compare(baseline: Results, candidate: Results) -> Comparison:
    """Pair two runs by task. Raises `ResultFileError` if they are not of the same tasks under the same judge."""
    _check_same(baseline, candidate)
    answered = candidate.answered
    both = [(item, answered[key]) for key, item in baseline.answered.items() if key in answered]
    wanted = baseline.header.tasks.strata
    strata = [_stratum(name, [pair for pair in both if pair[0].stratum == name], n) for name, n in wanted.items()]
    flips = [_flip(*pair) for pair in both if pair[0].is_right != pair[1].is_right]
    whole = _stratum("(all)", both, sum(wanted.values()))
    return Comparison(strata, whole, flips, baseline.header.computed, candidate.header.computed)


def _check_same(baseline: Results, candidate: Results) -> None:
    one, other = baseline.header, candidate.header
    if one.tasks.sha256 != other.tasks.sha256:
        raise ResultFileError(
            f"{baseline.path} is of the tasks {one.tasks.name} ({one.tasks.sha256[:12]}) and {candidate.path} of "
            f"{other.tasks.name} ({other.tasks.sha256[:12]}); only runs over the same file can be compared."
        )
    if one.settings.get("judge") != other.settings.get("judge"):
        raise ResultFileError(f"{baseline.path} and {candidate.path} had different judges; run one of them again.")


def _stratum(name: str, both: Sequence[tuple[Item, Item]], wanted: int) -> StratumComparison:
    count = Counter((bool(one.is_right), bool(other.is_right)) for one, other in both)
    pairs = Pairs(count[True, True], count[True, False], count[False, True], count[False, False])
    return StratumComparison(
        stratum=name,
        pairs=pairs,
        missing=wanted - len(both),
        interval=difference_interval(pairs) if both else None,
        p_value=mcnemar(pairs.baseline_only, pairs.candidate_only),
    )


def _flip(one: Item, other: Item) -> Flip:
    return Flip(one.id, one.stratum, bool(one.is_right), one.text, other.text)
