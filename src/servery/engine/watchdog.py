"""Does an engine that says nothing compute, or does it hang? Pure: beats, vitals and time are passed in."""

from servery.engine.pulse import Beat
from servery.engine.vitals import Vitals

# How often to look: a hang is noticed so much later than the silence lasts.
LOOK_S = 0.25
# Below this share of one core a process does not compute; a thread that wakes up now and then takes far less.
COMPUTING_SHARE = 0.02
# However good the reason for a silence is, after so long somebody has to do something.
LONGEST_SILENCE_S = 600.0


class Watchdog:
    """Judges the silence since the newest beat.

    Counted are only times in which the watcher itself was on time and the process fetched no pages from a disk: a
    machine that was suspended, a container that was paused and a model that is swapped in are no hang.
    """

    def __init__(self) -> None:
        self._beat = Beat(0.0)
        self._vitals: Vitals | None = None
        self._cpu_at_beat_s = 0.0
        self._looked_s: float | None = None
        self._silence_s = 0.0
        self._whole_silence_s = 0.0

    def look(self, now: float, beat: Beat, vitals: Vitals | None) -> str | None:
        """Why the engine is taken to hang; None while it is not."""
        elapsed_s = 0.0 if self._looked_s is None else now - self._looked_s
        previous, self._vitals, self._looked_s = self._vitals, vitals, now
        if beat.at_s != self._beat.at_s:
            self._beat, self._silence_s, self._whole_silence_s = beat, 0.0, 0.0
            self._cpu_at_beat_s = 0.0 if vitals is None else vitals.cpu_s
            return None
        on_time_s = min(elapsed_s, 2 * LOOK_S)
        self._whole_silence_s += on_time_s
        if not _is_fetching(previous, vitals):
            self._silence_s += on_time_s
        return self._judge(vitals)

    def _judge(self, vitals: Vitals | None) -> str | None:
        silence_s, beat = self._silence_s, self._beat
        said = f"its loop gave no sign of life for {self._whole_silence_s:.1f} s"
        if silence_s >= beat.still_s and vitals is not None:
            used_s = vitals.cpu_s - self._cpu_at_beat_s
            if used_s < COMPUTING_SHARE * silence_s:
                return f"{said} and its process does nothing"
        if silence_s >= beat.allowed_s or self._whole_silence_s >= LONGEST_SILENCE_S:
            return f"{said}, which is longer than what it does may take"
        return None


def _is_fetching(before: Vitals | None, after: Vitals | None) -> bool:
    """Whether pages came from a disk since the last look, or one is being waited for."""
    if before is None or after is None:
        return False
    return after.waits_for_disk or after.major_faults > before.major_faults
