"""How long a step takes, learnt from the steps so far: `seconds = fixed + per_token * tokens`."""

# A step's weight falls to 1/e after this many later ones: about two seconds of decoding.
MEMORY_STEPS = 100.0
# One outlier (a page fault storm, a suspended machine) must not teach that every step is slow.
MAX_SURPRISE = 8.0
# So many steps in a row that are as much quicker than expected say that those before had something else to do, such as
# compiling kernels: what was learnt of them is dropped. One alone may be a step whose end was noticed late.
QUICK_STEPS = 2
# Below this relative spread of step sizes (standard deviation / mean) the slope cannot be told from noise.
MIN_SPREAD = 0.2


class StepCost:
    """Exponentially weighted least squares of seconds over tokens; both coefficients stay non-negative.

    While all steps have about the same size (decoding only), the slope is kept and just the fixed part follows.
    """

    def __init__(self, memory_steps: float = MEMORY_STEPS) -> None:
        self._keep = 1.0 - 1.0 / memory_steps
        # Weighted sums of 1, n, s, n * n, n * s over the steps (n tokens, s seconds).
        self._w = self._n = self._s = self._nn = self._ns = 0.0
        self._quick_steps = 0
        self.fixed_s = 0.0
        self.per_token_s = 0.0

    def observe(self, num_tokens: int, seconds: float) -> None:
        """Learn from one step."""
        if num_tokens < 1 or seconds <= 0.0:
            return
        expected_s = self.predict(num_tokens)
        if self._w > 1.0:
            seconds = min(seconds, MAX_SURPRISE * max(expected_s, self._s / self._w))
        self._quick_steps = self._quick_steps + 1 if seconds * MAX_SURPRISE < expected_s else 0
        if self._quick_steps == QUICK_STEPS:
            self._w = self._n = self._s = self._nn = self._ns = self.per_token_s = 0.0
            self._quick_steps = 0
        keep = self._keep
        self._w = keep * self._w + 1.0
        self._n = keep * self._n + num_tokens
        self._s = keep * self._s + seconds
        self._nn = keep * self._nn + num_tokens * num_tokens
        self._ns = keep * self._ns + num_tokens * seconds
        self._fit()

    def predict(self, num_tokens: int) -> float:
        """Seconds that a step of so many tokens is expected to take; 0 before the first observation."""
        return self.fixed_s + self.per_token_s * num_tokens

    def budget(self, target_s: float) -> int | None:
        """The most tokens of a step expected to stay within `target_s`, at least 1; None while nothing is known."""
        if self.per_token_s <= 0.0:
            return None
        return max(1, int((target_s - self.fixed_s) / self.per_token_s))

    def _fit(self) -> None:
        mean_n, mean_s = self._n / self._w, self._s / self._w
        variance = max(0.0, self._nn / self._w - mean_n * mean_n)
        slope = self.per_token_s
        if variance > (MIN_SPREAD * mean_n) ** 2:
            slope = (self._ns / self._w - mean_n * mean_s) / variance
        elif slope == 0.0:
            slope = mean_s / mean_n  # nothing to tell the parts by yet: the cautious reading is that tokens cost all
        self.per_token_s = min(max(slope, 0.0), mean_s / mean_n)
        self.fixed_s = mean_s - self.per_token_s * mean_n


class StepCosts:
    """Of the steps in the background apart: they are of another kind, and what is known of the others must not suffer."""

    def __init__(self) -> None:
        self._usual = StepCost()
        self._background = StepCost()

    def observe(self, num_tokens: int, seconds: float, *, is_background: bool) -> None:
        """Learn from one step."""
        (self._background if is_background else self._usual).observe(num_tokens, seconds)

    def of(self, *, is_background: bool) -> StepCost:
        """What is known of such steps; before any in the background, what is known of the others."""
        is_known = is_background and self._background.predict(1) > 0.0
        return self._background if is_known else self._usual
