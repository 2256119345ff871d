"""How sure a draft model is of a token, in grades, and how often drafts of each grade stand.

The largest probability that a draft model gives tells most of what can be known beforehand of whether the model will
agree: drafts that a good drafter gives 99 % stand as often, those that it gives 30 % seldom. So drafting can stop at the
first doubtful token, which a share of all drafts cannot tell. The grade is taken from the model's own distribution,
before temperature and other parameters; greedy and random draws are counted apart.

Where a draft is drawn by chance, whether it is judged must not depend on which token it is, or rejection sampling were
no longer exact. The distribution that it is drawn from may decide: it is given by the drafts before.
"""

from bisect import bisect
from collections.abc import Sequence

import numpy as np
from torch import Tensor

_BORDERS = (0.3, 0.5, 0.7, 0.85, 0.95, 0.99)
_MIDDLES = (0.15, 0.4, 0.6, 0.78, 0.9, 0.97, 0.99)
_PRIOR_DRAFTS = 10.0
_KEEP = 0.99
_MOST = 0.995


def confidences(logits: Tensor) -> list[float]:
    """The largest probability of each row of `logits` [R, V], as the model gives it; NaN for an unusable row."""
    values = logits.cpu().numpy()  # for few rows torch takes three times as long
    peaks: list[float] = (1.0 / np.exp(values - values.max(axis=-1, keepdims=True)).sum(axis=-1)).tolist()
    return peaks


def grade(confidence: float, *, is_greedy: bool) -> int:
    """The number of the range that a draft's confidence is in."""
    return bisect(_BORDERS, confidence) + (0 if is_greedy else len(_MIDDLES))


class Calibration:
    """The share of drafts of each grade that stood, the older ones counting less."""

    def __init__(self) -> None:
        self._judged = [_PRIOR_DRAFTS] * (2 * len(_MIDDLES))
        self._stood = [_PRIOR_DRAFTS * middle for middle in (*_MIDDLES, *_MIDDLES)]

    @property
    def chances(self) -> list[float]:
        """For each grade, that a draft stands if those before it do."""
        return [min(stood / judged, _MOST) for stood, judged in zip(self._stood, self._judged, strict=True)]

    def observe(self, grades: Sequence[int], stood: int) -> None:
        """Learn that of drafts with these grades the first `stood` stood; those after the next are not judged."""
        for at, number in enumerate(grades[: stood + 1]):
            self._judged[number] = _KEEP * self._judged[number] + 1.0
            self._stood[number] = _KEEP * self._stood[number] + (at < stood)
