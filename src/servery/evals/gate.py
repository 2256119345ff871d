"""The quality gate: may a candidate (quantized, compressed, cheaper) replace a baseline?

It passes only if in every stratum the one-sided 95 % lower bound of the relative difference is above -5 %. All strata
must pass, so no correction for their number is needed (intersection-union test). What cannot be told does not pass: a
stratum that is too small, that has unanswered tasks, or in which the baseline gets nothing right.
"""

from dataclasses import dataclass
from statistics import NormalDist

from servery.evals.compare import Comparison, StratumComparison
from servery.evals.statistics import Pairs, ratio_lower_bound, ratio_score, smallest_baseline

MARGIN = 0.05
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class StratumVerdict:
    """One stratum: the relative difference and its lower bound (None: not to be told), and why it fails, if it does."""

    stratum: str
    pairs: Pairs
    relative: float | None
    lower_bound: float | None
    reason: str | None

    @property
    def has_passed(self) -> bool:
        """Whether nothing speaks against the candidate."""
        return self.reason is None


@dataclass(frozen=True, slots=True)
class Verdict:
    """All strata under one rule."""

    margin: float
    confidence: float
    strata: list[StratumVerdict]

    @property
    def has_passed(self) -> bool:
        """Whether every stratum has; a comparison of nothing has not."""
        return bool(self.strata) and all(one.has_passed for one in self.strata)


def judge(comparison: Comparison, margin: float = MARGIN, confidence: float = CONFIDENCE) -> Verdict:
    """The verdict on a comparison; `margin` is the relative loss that is too much (0 to 1, neither included)."""
    return Verdict(margin, confidence, [_stratum(one, margin, confidence) for one in comparison.strata])


def _stratum(found: StratumComparison, margin: float, confidence: float) -> StratumVerdict:
    ratio_low = ratio_lower_bound(found.pairs, confidence)
    relative = None if ratio_low is None else found.pairs.candidate / found.pairs.baseline - 1
    lower_bound = None if ratio_low is None else ratio_low - 1
    reason = _reason(found, margin, confidence)
    return StratumVerdict(found.stratum, found.pairs, relative, lower_bound, reason)


def _reason(found: StratumComparison, margin: float, confidence: float) -> str | None:
    pairs, smallest = found.pairs, smallest_baseline(margin, confidence)
    if found.missing:
        return f"{found.missing} tasks have no answer from both; run them again"
    if pairs.baseline == 0:
        return "the baseline gets nothing right here, so nothing can be said of a loss"
    score = ratio_score(pairs, 1 - margin)
    if pairs.baseline < smallest:
        return f"too small to tell: the baseline gets {pairs.baseline} right, at least {smallest} are needed"
    if score > NormalDist().inv_cdf(confidence):
        return None
    return f"a loss of {margin:.0%} is not excluded{_advice(pairs, score, confidence)}"


def _advice(pairs: Pairs, score: float, confidence: float) -> str:
    """How many tasks would settle it if the shares stay as they are: the score grows with the root of n."""
    if score <= 0:
        return ""
    needed = pairs.n * (NormalDist().inv_cdf(confidence) / score) ** 2
    return f"; about {int(needed) + 1} tasks would tell, if the shares stay as they are"
