"""How likely a draft is to stand, for each request by itself."""

from weakref import WeakKeyDictionary

from servery.engine.request import Sequence

# What a request tells counts like so many drafts of the others: until it has as many of its own, it is one of them.
_PRIOR_DRAFTS = 4.0
# Weight that a request's drafts keep after each later step, so that it is tried again after a bad stretch.
_KEEP_PER_STEP = 0.97
_KEEP_OF_ALL = 0.995
_FIRST_GUESS = 0.7
_MOST = 0.98


class _Counts:
    """Drafts judged and drafts that stood, the older ones counting less."""

    __slots__ = ("judged", "step", "stood")

    def __init__(self, judged: float = 0.0, stood: float = 0.0) -> None:
        self.judged, self.stood, self.step = judged, stood, 0

    def fade(self, keep: float) -> None:
        self.judged *= keep
        self.stood *= keep


class Acceptance:
    """Exponentially weighted shares of drafts that stood: per request, and per kind of offer over all requests.

    A draft after one that does not stand is not judged at all.
    """

    def __init__(self, kinds: int) -> None:
        self._kinds = [_Counts(_PRIOR_DRAFTS, _FIRST_GUESS * _PRIOR_DRAFTS) for _ in range(kinds)]
        self._requests: WeakKeyDictionary[Sequence, _Counts] = WeakKeyDictionary()
        self._step = 0

    def tick(self) -> None:
        """A step has passed: what is known of every request is a little older."""
        self._step += 1

    def of(self, sequence: Sequence, kind: int) -> float:
        """The chance that a sequence's next draft of this kind stands, if those before it do."""
        everyone = self._kinds[kind]
        usual = everyone.stood / everyone.judged
        own = self._requests.get(sequence)
        if own is None:
            return min(usual, _MOST)
        self._catch_up(own)
        return min((own.stood + _PRIOR_DRAFTS * usual) / (own.judged + _PRIOR_DRAFTS), _MOST)

    @property
    def best(self) -> float:
        """The largest share of any kind."""
        return min(max(kind.stood / kind.judged for kind in self._kinds), _MOST)

    def observe(self, sequence: Sequence, kind: int, drafted: int, stood: int) -> None:
        """Learn that of `drafted` drafts the first `stood` stood."""
        judged = min(stood + 1, drafted)
        everyone = self._kinds[kind]
        everyone.fade(_KEEP_OF_ALL**judged)
        own = self._requests.get(sequence)
        if own is None:
            own = self._requests[sequence] = _Counts()
            own.step = self._step
        self._catch_up(own)
        for counts in (everyone, own):
            counts.judged += judged
            counts.stood += stood

    def _catch_up(self, own: _Counts) -> None:
        own.fade(_KEEP_PER_STEP ** (self._step - own.step))
        own.step = self._step
