"""A linear model that learns with every observation and forgets the old ones.

Recursive least squares with exponential forgetting (Haykin, Adaptive Filter Theory, 4th ed., section 9.3), in plain
Python: for four features an update takes some 20 microseconds, and the gateway needs no numpy.
"""

from collections.abc import Sequence

_TINY = 1e-12


class Regression:
    """`predict(features)` is their weighted sum; weights begin at `prior` and are never negative in a prediction.

    `forgetting` weighs each observation against the next one (0.98: the last fifty rule). `trust` is how many
    observations the prior is worth, `scales` the usual size of each feature, in which the trust is meant.
    """

    def __init__(
        self, prior: Sequence[float], scales: Sequence[float], *, forgetting: float = 0.98, trust: float = 1.0
    ) -> None:
        self._prior = tuple(prior)
        self._weights = list(prior)
        self._forgetting = forgetting
        size = len(self._prior)
        self._initial = tuple(1.0 / (trust * scale * scale) for scale in scales)
        # The inverse of the features' weighted covariance, symmetric.
        self._inverse = [[self._initial[i] if i == j else 0.0 for j in range(size)] for i in range(size)]

    @property
    def weights(self) -> tuple[float, ...]:
        """What each feature adds now, never less than nothing."""
        return tuple(max(weight, 0.0) for weight in self._weights)

    def predict(self, features: Sequence[float]) -> float:
        """What is expected of `features`."""
        return sum(weight * feature for weight, feature in zip(self.weights, features, strict=True))

    def predict_prior(self, features: Sequence[float]) -> float:
        """What would be expected if nothing had been observed."""
        return sum(weight * feature for weight, feature in zip(self._prior, features, strict=True))

    def observe(self, features: Sequence[float], value: float) -> None:
        """Learn that `features` came with `value`."""
        direction = [sum(row[j] * features[j] for j in range(len(features))) for row in self._inverse]
        spread = self._forgetting + sum(f * d for f, d in zip(features, direction, strict=True))
        gain = [d / max(spread, _TINY) for d in direction]
        error = value - sum(w * f for w, f in zip(self._weights, features, strict=True))
        self._weights = [w + g * error for w, g in zip(self._weights, gain, strict=True)]
        self._update_inverse(gain, direction)
        self._hold_at_nothing()

    def _hold_at_nothing(self) -> None:
        """Move weights below nothing up to it, and the others as fits the observations best then."""
        for _ in self._weights:
            lowest = min(range(len(self._weights)), key=self._weights.__getitem__)
            if self._weights[lowest] >= 0.0:
                return
            column, share = self._inverse[lowest], self._weights[lowest] / self._inverse[lowest][lowest]
            self._weights = [weight - share * column[i] for i, weight in enumerate(self._weights)]
            self._weights[lowest] = 0.0

    def _update_inverse(self, gain: Sequence[float], direction: Sequence[float]) -> None:
        # Forgetting lets directions that are never observed grow without end ("wind-up"): they stop at the prior's.
        size = len(gain)
        for i in range(size):
            for j in range(i, size):
                value = (self._inverse[i][j] - gain[i] * direction[j]) / self._forgetting
                self._inverse[i][j] = self._inverse[j][i] = value
        for i in range(size):
            excess = self._inverse[i][i] / self._initial[i]
            if excess > 1.0:
                shrink = excess**-0.5
                for j in range(size):
                    self._inverse[i][j] *= shrink
                    self._inverse[j][i] *= shrink
