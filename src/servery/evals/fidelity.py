"""How faithful a candidate is to a baseline, token by token: perplexity, divergence and agreement per stratum.

Accuracy needs thousands of answers to show a small loss; the distributions show it in every token. It is an early alarm
and a way to choose between precisions; whether a candidate may replace a baseline is for the gate to say.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servery import __version__
from servery.bench.machine import Provenance
from servery.bench.percentile import percentile
from servery.evals.errors import OptionError
from servery.evals.estimate import Estimate, mean_per_token, share_of_tokens
from servery.evals.fingerprint import Fingerprint
from servery.evals.passages import Encoder, Passages, Source, read
from servery.evals.progress import progress
from servery.evals.statistics import Interval

if TYPE_CHECKING:
    from servery.engine.core import EngineCore
    from servery.engine.teacher_forcing import PassageScores

SCHEMA = "servery.eval.fidelity/1"
WINDOW = 512
# Passages that the caches hold at once, of the longest of them.
_TOGETHER = 8
_BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityOptions:
    """What `servery eval fidelity` was asked: two checkpoints, each with settings of `EngineConfig`, and a file.

    `window` is for a text: how many tokens see each other. `limit` is of passages per stratum. Raises `OptionError`
    for values that cannot be.
    """

    texts: Path
    baseline: Path
    candidate: Path
    baseline_engine: dict[str, Any] = field(default_factory=dict)
    candidate_engine: dict[str, Any] = field(default_factory=dict)
    window: int = WINDOW
    limit: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.window < 2:
            raise OptionError(
                f"--window is {self.window}; it must be at least 2: the first token has nothing to follow."
            )
        if self.limit is not None and self.limit < 1:
            raise OptionError(f"--limit is {self.limit}; it must be at least 1.")
        if (self.baseline, self.baseline_engine) == (self.candidate, self.candidate_engine):
            raise OptionError("baseline and candidate are the same; let a --candidate-… option tell them apart.")


@dataclass(frozen=True, slots=True)
class StratumFidelity:
    """One stratum. `change` is of the perplexity, relative to the baseline's; divergence is in nats per token."""

    stratum: str
    passages: int
    tokens: int
    baseline_perplexity: float
    candidate_perplexity: float
    change: Estimate
    divergence: Estimate
    divergence_p99: float | None
    agreement: Estimate


@dataclass(frozen=True, slots=True)
class SideReport:
    """One of the two: what it is, how it was run, and the memory of weights and of a token's keys and values.

    `dtype` is what it computes in, `kernels` by what; `weight_dtype` and `kv_dtype` are what both are held in.
    """

    checkpoint: Fingerprint
    settings: dict[str, Any]
    dtype: str
    kernels: str
    weight_dtype: str
    kv_dtype: str
    weight_bytes: int
    kv_bytes_per_token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FidelityReport:
    """Everything that was found; strata in the order of the file, all tokens together last."""

    schema: str = SCHEMA
    version: str = __version__
    texts: str
    texts_sha256: str
    left_out: dict[str, int]
    baseline: SideReport
    candidate: SideReport
    strata: list[StratumFidelity]
    provenance: dict[str, Any]


def measure(options: FidelityOptions) -> FidelityReport:
    """Load both engines and compare them. Raises `EvalError` or `EngineError`, naming what cannot be used."""
    source = read(options.texts)
    passages = _passages(options, source)
    length = max(len(one.tokens) for of_one in passages.strata.values() for one in of_one)
    baseline, candidate = (_engine(options, side, length) for side in ("baseline", "candidate"))
    if baseline.info.vocab_size != candidate.info.vocab_size:
        sizes = f"{baseline.info.vocab_size} and {candidate.info.vocab_size}"
        raise OptionError(f"the models have vocabularies of {sizes} tokens; their distributions cannot be compared.")
    return FidelityReport(
        texts=source.name,
        texts_sha256=source.sha256,
        left_out=passages.left_out,
        baseline=_side(options.baseline, options.baseline_engine, baseline),
        candidate=_side(options.candidate, options.candidate_engine, candidate),
        strata=_strata(_scores(baseline, candidate, passages)),
        provenance=dataclasses.asdict(Provenance.now()),
    )


def _passages(options: FidelityOptions, source: Source) -> Passages:
    """The same for both, or they cannot be compared."""
    longest = min(_longest(path) for path in (options.baseline, options.candidate))
    limits = longest, options.window, options.limit
    found = Encoder(options.baseline).passages(source, *limits)
    if not found.strata:
        reasons = "; ".join(f"{count} left out: {reason}" for reason, count in found.left_out.items())
        raise OptionError(f"{options.texts} has nothing to compare on. {reasons}".rstrip())
    if options.candidate != options.baseline and Encoder(options.candidate).passages(source, *limits) != found:
        raise OptionError(
            f"{options.baseline} and {options.candidate} make other tokens of {options.texts}; only models with the same "
            "tokenizer and chat template can be compared token by token."
        )
    return found


def _longest(checkpoint: Path) -> int:
    from servery.engine.architecture import ModelConfig

    return ModelConfig.load(checkpoint).max_position


def _engine(options: FidelityOptions, side: str, length: int) -> "EngineCore":
    from servery.engine.config import EngineConfig
    from servery.engine.core import EngineCore
    from servery.engine.loading_bar import LoadingBar

    checkpoint: Path = getattr(options, side)
    settings = {"threads": options.threads, **getattr(options, f"{side}_engine")}
    if "calibration" in settings:
        settings["calibration"] = Path(settings["calibration"])
    # A block is never longer than the context, which is never shorter than the longest passage.
    config = EngineConfig(
        model=checkpoint,
        max_model_len=length,
        block_size=min(_BLOCK_SIZE, length),
        max_running=_TOGETHER,
        prefix_cache=False,
        **settings,
    )
    with LoadingBar(f"loading the {side}, {checkpoint.name}") as bar:
        return EngineCore(config, progress=bar)


def _side(checkpoint: Path, settings: dict[str, Any], core: "EngineCore") -> SideReport:
    info = core.info
    return SideReport(
        checkpoint=Fingerprint.of(checkpoint),
        settings=settings,
        dtype=info.dtype,
        kernels=info.kernels,
        weight_dtype=info.weight_dtype,
        kv_dtype=info.kv_dtype,
        weight_bytes=info.weight_bytes,
        kv_bytes_per_token=info.kv_bytes_per_token,
    )


def _scores(baseline: "EngineCore", candidate: "EngineCore", passages: Passages) -> "dict[str, list[PassageScores]]":
    from servery.engine.teacher_forcing import score

    found: dict[str, list[PassageScores]] = {}
    with progress("comparing", sum(map(len, passages.strata.values())), 0) as advance:
        for stratum, of_one in passages.strata.items():
            found[stratum] = []
            for group in score(baseline, candidate, of_one):
                found[stratum] += group
                advance(len(group))
    return found


def _strata(scores: "dict[str, list[PassageScores]]") -> list[StratumFidelity]:
    rows = [summary(name, of_one) for name, of_one in scores.items()]
    return rows if len(rows) == 1 else [*rows, summary("(all)", [one for of_one in scores.values() for one in of_one])]


def summary(stratum: str, scores: "Sequence[PassageScores]") -> StratumFidelity:
    """The figures of one stratum; every passage has at least one scored token."""
    tokens = [len(one.agrees) for one in scores]
    divergences = sorted(_chain(one.divergence for one in scores))
    differences = [math.fsum(one.candidate) - math.fsum(one.baseline) for one in scores]
    return StratumFidelity(
        stratum=stratum,
        passages=len(scores),
        tokens=sum(tokens),
        baseline_perplexity=perplexity(_chain(one.baseline for one in scores)),
        candidate_perplexity=perplexity(_chain(one.candidate for one in scores)),
        change=_relative(mean_per_token(differences, tokens)),
        divergence=_not_negative(mean_per_token([math.fsum(one.divergence) for one in scores], tokens)),
        divergence_p99=percentile(divergences, 0.99).value,
        agreement=share_of_tokens([sum(one.agrees) for one in scores], tokens),
    )


def perplexity(surprises: Sequence[float]) -> float:
    """The exponential of the mean surprise (nats)."""
    return _exp(math.fsum(surprises) / len(surprises))


def _relative(log_ratio: Estimate) -> Estimate:
    """The change that a difference of mean surprises is: exp(difference) - 1."""
    found = log_ratio.interval
    interval = None if found is None else Interval(_exp(found.low) - 1, _exp(found.high) - 1)
    return Estimate(_exp(log_ratio.value) - 1, interval)


def _not_negative(divergence: Estimate) -> Estimate:
    found = divergence.interval
    return divergence if found is None else Estimate(divergence.value, Interval(max(0.0, found.low), found.high))


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))  # a figure so large is one all the same, and JSON has no infinity


def _chain(parts: Iterable[list[float]]) -> list[float]:
    return [value for part in parts for value in part]
