"""A deployment that said 429: it is well, and wants nothing until a certain time."""

DEFAULT_S = 1.0
MOST_S = 3600.0


class Throttle:
    """Until when a deployment is left alone. Without a time of its own it is a second, and twice as long each time."""

    def __init__(self) -> None:
        self.until_s = 0.0
        self.untold = 0  # 429s in a row that named no time

    def is_on(self, now: float) -> bool:
        """Whether nothing is to be sent now."""
        return now < self.until_s

    def retry_after_s(self, now: float) -> float:
        """How long that lasts; 0 if it is not on."""
        return max(0.0, self.until_s - now)

    def hold(self, now: float, retry_after_s: float | None) -> None:
        """It said 429; one answer never shortens what another one asked for."""
        if retry_after_s is None:
            retry_after_s = DEFAULT_S * 2.0 ** min(self.untold, 6)
            self.untold += 1
        self.until_s = max(self.until_s, now + min(max(0.0, retry_after_s), MOST_S))

    def succeed(self) -> None:
        """It answered."""
        self.untold = 0
