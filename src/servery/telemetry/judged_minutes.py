"""Exchanges judged by SLOs, counted by minute in memory: what a server without a ledger knows of the past."""

from collections import Counter
from collections.abc import Iterable, Mapping

from servery.telemetry.slo import WINDOWS_S, Count

_FINE_S = WINDOWS_S["6h"]
_MOST_S = max(WINDOWS_S.values())
_MINUTE_S, _HOUR_S = 60, 3_600


class JudgedMinutes:
    """One model's. Windows of up to six hours are right to the minute, longer ones to the hour; Unix times."""

    def __init__(self) -> None:
        self._minutes: dict[int, list[int]] = {}
        self._hours: dict[int, list[int]] = {}

    def add(self, at_s: float, *, is_good: bool) -> None:
        """Count an exchange that was over at `at_s`."""
        minute = int(at_s // _MINUTE_S)
        cell = self._minutes.get(minute)
        if cell is None:
            cell = self._minutes[minute] = [0, 0]
            self._fold(at_s)
        cell[not is_good] += 1

    def counts(self, now_s: float) -> Mapping[str, Count]:
        """By window."""
        return {name: self._count(now_s - span_s) for name, span_s in WINDOWS_S.items()}

    def _count(self, since_s: float) -> Count:
        cells = [cell for minute, cell in self._minutes.items() if minute > since_s // _MINUTE_S]
        cells += [cell for hour, cell in self._hours.items() if hour > since_s // _HOUR_S]
        return Count(sum(cell[0] for cell in cells), sum(cell[1] for cell in cells))

    def _fold(self, now_s: float) -> None:
        """Keep what is older than six hours by the hour, and forget what is older than every window."""
        for minute in [each for each in self._minutes if each * _MINUTE_S <= now_s - _FINE_S - _HOUR_S]:
            good, missed = self._minutes.pop(minute)
            cell = self._hours.setdefault(minute * _MINUTE_S // _HOUR_S, [0, 0])
            cell[0] += good
            cell[1] += missed
        for hour in [each for each in self._hours if each * _HOUR_S <= now_s - _MOST_S - _HOUR_S]:
            del self._hours[hour]


class JudgedModels:
    """All models'."""

    def __init__(self) -> None:
        self._models: dict[str, JudgedMinutes] = {}

    def add(self, model: str, at_s: float, *, is_good: bool) -> None:
        """Count an exchange that was over at `at_s`."""
        found = self._models.get(model)
        if found is None:
            found = self._models[model] = JudgedMinutes()
        found.add(at_s, is_good=is_good)

    def counts(self, now_s: float) -> Mapping[str, Mapping[str, Count]]:
        """By model and window."""
        return {model: minutes.counts(now_s) for model, minutes in self._models.items()}


def summed(parts: Iterable[Mapping[str, Mapping[str, Count]]]) -> Mapping[str, Mapping[str, Count]]:
    """What several counted, together."""
    good: Counter[tuple[str, str]] = Counter()
    missed: Counter[tuple[str, str]] = Counter()
    for part in parts:
        for model, windows in part.items():
            for window, count in windows.items():
                good[model, window] += count.good
                missed[model, window] += count.missed
    found: dict[str, dict[str, Count]] = {}
    for model, window in good:
        found.setdefault(model, {})[window] = Count(good[model, window], missed[model, window])
    return found
