"""What is sent, made before the first is sent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from servery.bench.conversation import Turn


@dataclass(frozen=True, slots=True)
class Planned:
    """A request and when it is due, in seconds from the start; `turns` follow it, each after the answer to the last."""

    at_s: float
    request: dict[str, Any]
    turns: tuple[Turn, ...] = ()


def number_of_requests(planned: Sequence[Planned]) -> int:
    """All turns of all of them."""
    return sum(1 + len(one.turns) for one in planned)
