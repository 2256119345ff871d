"""What one load gave: its samples, its times and what the client itself used."""

from dataclasses import dataclass

from servery.bench.sample import Sample


@dataclass(frozen=True, slots=True)
class Measured:
    """All samples in the order of the requests, `began` to `ended` in seconds, the client's own share of a core.

    `load` says in words how the requests came; `is_open` whether they came whether or not earlier ones were done.
    """

    samples: list[Sample]
    began: float
    ended: float
    client_cpu_share: float
    load: str = ""
    is_open: bool = False

    @property
    def wall_s(self) -> float:
        """From the first request sent to the last answer ended."""
        return self.ended - self.began

    @property
    def steady_s(self) -> float:
        """Until the last request was sent: in a closed loop, how long all clients were busy."""
        return max((sample.sent for sample in self.samples), default=self.began) - self.began
