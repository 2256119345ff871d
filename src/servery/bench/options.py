"""What `servery bench` was asked to measure, and how."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from servery.bench.arrivals import Arrivals
from servery.bench.lengths import Lengths
from servery.bench.slo import BenchSlo
from servery.bench.span import Span

ONE_TURN, TURN_TOKENS = Span(1, 1), Span(50, 50)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetOptions:
    """The server: its address, the model asked of it (None: its first), the key, the most time for one answer."""

    url: str
    model: str | None = None
    api_key: str | None = dataclasses.field(default=None, repr=False)
    timeout_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkOptions:
    """What is asked: lengths drawn from distributions, or those of a trace, a file or a kind of synthetic traffic."""

    prompt_tokens: Lengths
    output_tokens: Lengths
    shared_prefix_tokens: int = 0
    opening: str = ""  # the word that all prompts begin with
    trace: str | None = None
    scale_tokens: float = 1.0  # of the lengths of a trace, to fit a model with a shorter context
    stop_at_eos: bool = False
    temperature: float = 0.0
    seed: int = 0
    turns: Lengths = ONE_TURN  # of a conversation, each with the answers to those before
    turn_tokens: Lengths = TURN_TOKENS  # of a user's further message
    think_s: float = 0.0  # from an answer to the next turn, on average

    @property
    def is_conversation(self) -> bool:
        """Whether requests come as conversations."""
        return self.trace is None and self.turns != ONE_TURN


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How the requests come: `arrivals` in an open loop, at the trace's own times, or else from `concurrency` clients."""

    requests: int = 200
    warmup: int = 8
    concurrency: int | None = None
    arrivals: Arrivals | None = None
    is_replay: bool = False

    @property
    def words(self) -> str:
        """For the report."""
        if self.concurrency is not None:
            return f"closed loop, {self.concurrency} client{'s' if self.concurrency > 1 else ''}"
        if self.is_replay:
            stretched = f" at {self.arrivals.rate:g} requests/s" if self.arrivals is not None else ""
            return f"open loop, the times of the trace{stretched}"
        return f"open loop, {self.arrivals}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """One run; `dollars_per_hour` is what the server costs, for the cost per million good tokens.

    `api_price` is what a provider asks for a million output tokens, in dollars, to see the cost beside it.
    """

    target: TargetOptions
    work: WorkOptions
    load: LoadOptions
    slo: BenchSlo | None = None
    dollars_per_hour: float | None = None
    api_price: float | None = None
    measures_bandwidth: bool = True
    json_path: Path | None = None
    html_path: Path | None = None


def plain(options: object) -> object:
    """Options as JSON has them, without the key; what has a form that people write is written so."""
    if isinstance(options, TargetOptions | WorkOptions | LoadOptions | BenchOptions):
        names = (field.name for field in dataclasses.fields(options) if field.name != "api_key")
        return {name: plain(getattr(options, name)) for name in names}
    return options if options is None or isinstance(options, bool | int | float | str) else str(options)
