"""What can be said from counts of right and wrong answers. Pure functions; nothing here knows of tasks or files.

Wilson's score interval for one share (Wilson, 1927). For two systems on the same items: McNemar's exact test
(McNemar, 1947), Newcombe's hybrid score interval of the difference (Newcombe, 1998, method 10), and the score test of
the ratio of two paired shares (Nam and Blackwelder, 2002), whose constrained estimate has a closed form.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

_BISECTIONS = 60


@dataclass(frozen=True, slots=True)
class Interval:
    """Both ends, included."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Pairs:
    """How many items both systems got right, only one of them, and neither."""

    both: int
    baseline_only: int
    candidate_only: int
    neither: int

    @property
    def n(self) -> int:
        """All items."""
        return self.both + self.baseline_only + self.candidate_only + self.neither

    @property
    def baseline(self) -> int:
        """Items that the baseline got right."""
        return self.both + self.baseline_only

    @property
    def candidate(self) -> int:
        """Items that the candidate got right."""
        return self.both + self.candidate_only

    @property
    def flips(self) -> int:
        """Items on which they differ."""
        return self.baseline_only + self.candidate_only

    @property
    def difference(self) -> float:
        """Candidate minus baseline, as a share of all items (n > 0)."""
        return (self.candidate - self.baseline) / self.n


def wilson(right: float, n: float, coverage: float = 0.95) -> Interval:
    """The interval of a share of which `right` of `n` were seen; all of 0 to 1 where n is 0."""
    if n == 0:
        return Interval(0.0, 1.0)
    z2 = NormalDist().inv_cdf((1 + coverage) / 2) ** 2
    share = right / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    low = 0.0 if right == 0 else centre - half  # exactly, not but for rounding
    return Interval(low, 1.0 if right == n else centre + half)


def mcnemar(baseline_only: int, candidate_only: int) -> float:
    """The two-sided exact p-value of "neither is better": of the flips each goes either way with probability 1/2."""
    flips = baseline_only + candidate_only
    total = ways = 1  # of no flip and of the fewest; each number of ways follows from the one before
    for k in range(min(baseline_only, candidate_only)):
        ways = ways * (flips - k) // (k + 1)
        total += ways
    return min(1.0, 2 * total / (1 << flips))


def difference_interval(pairs: Pairs, coverage: float = 0.95) -> Interval:
    """The interval of candidate minus baseline, as a share of all items (n > 0)."""
    candidate, baseline = wilson(pairs.candidate, pairs.n, coverage), wilson(pairs.baseline, pairs.n, coverage)
    share, other = pairs.candidate / pairs.n, pairs.baseline / pairs.n
    phi = _correlation(pairs)
    down = _hypotenuse(share - candidate.low, baseline.high - other, phi)
    up = _hypotenuse(candidate.high - share, other - baseline.low, phi)
    return Interval(max(-1.0, pairs.difference - down), min(1.0, pairs.difference + up))


def _correlation(pairs: Pairs) -> float:
    product = pairs.candidate * (pairs.n - pairs.candidate) * pairs.baseline * (pairs.n - pairs.baseline)
    if product == 0:
        return 0.0
    agreement: float = pairs.both * pairs.neither - pairs.baseline_only * pairs.candidate_only
    if agreement > 0:
        agreement = max(agreement - pairs.n / 2, 0)
    return agreement / math.sqrt(product)


def _hypotenuse(a: float, b: float, phi: float) -> float:
    return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))


def ratio_score(pairs: Pairs, ratio: float) -> float:
    """The standardised distance of the candidate's share from `ratio` (> 0) times the baseline's; 0 where n is 0.

    Its variance is that under the hypothesis that the ratio is exactly `ratio`, with the shares of flips that fit the
    counts best. So it stays honest where few or no flips were seen, which a plain normal interval does not.
    """
    n = pairs.n
    distance = pairs.candidate - ratio * pairs.baseline
    if n == 0 or distance == 0:
        return 0.0
    gained, lost = _constrained(pairs, ratio)
    return distance / math.sqrt(n * ratio * (gained + lost))


def _constrained(pairs: Pairs, ratio: float) -> tuple[float, float]:
    """The most likely shares of (gained, lost) items where the candidate's share is `ratio` times the baseline's."""
    n = pairs.n
    candidate, baseline = pairs.candidate / n, pairs.baseline / n
    root = (candidate - ratio**2 * baseline) ** 2
    root += 4 * ratio**2 * (pairs.candidate_only / n) * (pairs.baseline_only / n)
    linear = candidate - ratio**2 * (baseline + 2 * pairs.candidate_only / n)
    gained = max(0.0, (math.sqrt(root) - linear) / (2 * ratio * (ratio + 1)))
    lost = max(0.0, ratio * gained - (ratio - 1) * (1 - pairs.neither / n))
    return gained, lost


def ratio_lower_bound(pairs: Pairs, confidence: float = 0.95) -> float | None:
    """The one-sided lower bound of candidate / baseline: the largest ratio that the score test still rejects.

    None where the baseline got nothing right and so no ratio exists.
    """
    if pairs.baseline == 0:
        return None
    limit = NormalDist().inv_cdf(confidence)
    low, high = 0.0, pairs.candidate / pairs.baseline
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if middle > 0 and ratio_score(pairs, middle) > limit:
            low = middle
        else:
            high = middle
    return low


def smallest_baseline(margin: float, confidence: float = 0.95) -> int:
    """With fewer right answers of the baseline than this, even a candidate that lost none may lose `margin` of them.

    Exact: if a share `margin` is truly lost, k answers all survive with probability (1 - margin)^k.
    """
    return math.ceil(math.log(1 - confidence) / math.log(1 - margin))
