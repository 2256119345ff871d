"""How long a step takes by sequences and drafts, learnt from the steps so far.

`seconds = fixed + per_sequence * sequences + per_draft * drafts`, for steps in which nobody prefills.
"""

# A step's weight falls to 1/e after this many later ones.
MEMORY_STEPS = 40.0
# One outlier (a page fault storm, a neighbour on the core) must not teach that every step is slow.
_MAX_SURPRISE = 3.0
# How far the numbers must vary, relative to the sequences, before they outweigh what was believed before.
_RIDGE = 0.002
_FIT_STEPS = 4  # the slopes are found anew so often: it takes longer than all else
_SURELY = 2  # steps before anything is said


class StepPlane:
    """Exponentially weighted least squares with a ridge towards the slopes believed so far; both stay non-negative."""

    def __init__(self) -> None:
        self._count = 0
        # Weighted sums over the steps of 1; sequences b, drafts d, seconds t; and of their products.
        self._w = self._b = self._d = self._t = 0.0
        self._bb = self._bd = self._dd = self._bt = self._dt = 0.0
        self.per_sequence_s = 0.0
        self.per_draft_s = 0.0

    @property
    def is_known(self) -> bool:
        """Whether enough steps were seen to say anything."""
        return self._count >= _SURELY

    def predict(self, sequences: float, drafts: float = 0.0) -> float:
        """Seconds that a step is expected to take; 0 before the first observation."""
        if not self._count:
            return 0.0
        sequences_more, drafts_more = sequences - self._b / self._w, drafts - self._d / self._w
        mean_s = self._t / self._w
        guess = mean_s + self.per_sequence_s * sequences_more + self.per_draft_s * drafts_more
        return max(guess, 0.2 * mean_s)

    def believe(self, per_sequence_s: float, per_draft_s: float) -> None:
        """Start from these slopes, which what is observed will correct."""
        self.per_sequence_s, self.per_draft_s = per_sequence_s, per_draft_s

    def observe(self, sequences: int, drafts: int, seconds: float) -> None:
        """Learn from one step of at least one sequence."""
        if self.is_known:
            seconds = min(seconds, _MAX_SURPRISE * self.predict(sequences, drafts))
        keep = 1.0 - 1.0 / MEMORY_STEPS
        self._count += 1
        self._w = keep * self._w + 1.0
        self._b = keep * self._b + sequences
        self._d = keep * self._d + drafts
        self._t = keep * self._t + seconds
        self._bb = keep * self._bb + sequences * sequences
        self._bd = keep * self._bd + sequences * drafts
        self._dd = keep * self._dd + drafts * drafts
        self._bt = keep * self._bt + sequences * seconds
        self._dt = keep * self._dt + drafts * seconds
        if self._count < _FIT_STEPS or self._count % _FIT_STEPS == 0:
            self._fit()

    def _fit(self) -> None:
        w = self._w
        b, d, t = self._b / w, self._d / w, self._t / w
        ridge = _RIDGE * b * b
        left_b, left_d = max(self._bb / w - b * b, 0.0) + ridge, max(self._dd / w - d * d, 0.0) + ridge
        right_b = self._bt / w - b * t + ridge * self.per_sequence_s
        right_d = self._dt / w - d * t + ridge * self.per_draft_s
        cross = self._bd / w - b * d
        determinant = left_b * left_d - cross * cross
        most = t / b  # what a sequence costs when nothing is fixed
        self.per_sequence_s = min(max((left_d * right_b - cross * right_d) / determinant, 0.0), most)
        self.per_draft_s = min(max((left_b * right_d - cross * right_b) / determinant, 0.0), most)
