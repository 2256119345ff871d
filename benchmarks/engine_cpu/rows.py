"""The rows of the table: who is measured at what, and what is aimed at. Pure; `__main__` carries them out."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.result import median_ratio

OURS = "servery"


@dataclass(frozen=True, slots=True)
class Contender:
    """One engine with one model in one format. `family` is what targets call it, of which the fastest counts."""

    family: str
    model: str  # a name of `models`
    weights: str
    settings: tuple[tuple[str, str], ...] = ()  # of the worker
    threads: int = 1

    @property
    def name(self) -> str:
        """What the table calls it."""
        given = "".join(f" {value}" for _, value in self.settings)
        threads = f", {self.threads} threads" if self.threads > 1 else ""
        return f"{self.family} {self.weights}{given}{threads}"


@dataclass(frozen=True, slots=True)
class Work:
    """What is timed: `steps` of decoding after prompts of `tokens`; 0 steps: the prompts themselves."""

    sequences: int
    tokens: int
    steps: int

    @property
    def context(self) -> int:
        """Positions that a sequence needs, with room for every round."""
        return self.tokens + 32 + 24 * self.steps


@dataclass(frozen=True, slots=True)
class Row:
    """One line: ours against the best of each family, and the ratios aimed at."""

    key: str
    title: str
    work: Work
    ours: Contender
    peers: tuple[Contender, ...]
    targets: Mapping[str, float]
    mbu_target: float | None = None
    # Families without steps to time: what a few tokens more take is timed once.
    whole: frozenset[str] = frozenset()

    @property
    def contenders(self) -> tuple[Contender, ...]:
        """Who takes turns."""
        return (self.ours, *self.peers)


def _ours(model: str, weights: str, threads: int = 1, **settings: str) -> Contender:
    return Contender(OURS, model, weights, tuple(settings.items()), threads)


_BF16, _INT8, _INT4 = _ours("large", "bf16"), _ours("large", "int8"), _ours("large", "int4")
_LLAMA = {kind: Contender("llama.cpp", "large", kind) for kind in ("BF16", "Q8_0", "Q4_0")}
_OPENVINO = {
    weights: tuple(Contender("openvino", "large", weights, (("kind", kind),)) for kind in ("model", "genai"))
    for weights in ("bf16", "int8")
}
_BATCHING = Contender("transformers batching", "large", "bf16")
_ONE, _EIGHT, _MANY = Work(1, 128, 8), Work(8, 128, 4), Work(32, 64, 3)
_LONG, _PROMPT = Work(1, 1024, 8), Work(1, 256, 0)


def _of_family(model: str) -> Row:
    weights = ("BF16", "F32")
    peers = [Contender("llama.cpp", model, kind) for kind in weights]
    peers += [Contender("transformers", model, kind) for kind in ("bfloat16", "float32")]
    title = {"amuse": "amuse (target), batch 1", "draft": "amuse draft, batch 1"}[model]
    return Row(
        model, title, Work(1, 128, 64), _ours(model, "auto"), tuple(peers), {"llama.cpp": 0.8, "transformers": 10}
    )


ROWS: tuple[Row, ...] = (
    Row("decode-1-bf16", "decode, batch 1, bf16", _ONE, _BF16, (_LLAMA["BF16"],), {"llama.cpp": 1.10}, 0.85),
    Row("decode-1-int8", "decode, batch 1, int8", _ONE, _INT8, (_LLAMA["Q8_0"],), {"llama.cpp": 1.25}, 0.75),
    Row("decode-1-int4", "decode, batch 1, int4", _ONE, _INT4, (_LLAMA["Q4_0"],), {"llama.cpp": 1.10}, 0.65),
    Row(
        "decode-8-bf16",
        "decode, batch 8, bf16",
        _EIGHT,
        _BF16,
        (_LLAMA["BF16"], *_OPENVINO["bf16"]),
        {"llama.cpp": 2.0, "openvino": 1.3},
    ),
    Row(
        "decode-8-int8",
        "decode, batch 8, int8",
        _EIGHT,
        _INT8,
        (_LLAMA["Q8_0"], *_OPENVINO["int8"]),
        {"llama.cpp": 3.0, "openvino": 1.3},
    ),
    Row("decode-8-int4", "decode, batch 8, int4", _EIGHT, _INT4, (_LLAMA["Q4_0"],), {"llama.cpp": 2.8}),
    Row("decode-32-bf16", "decode, batch 32, bf16", _MANY, _BF16, (_LLAMA["BF16"],), {"llama.cpp": 1.8}),
    Row(
        "decode-32-int8",
        "decode, batch 32, int8",
        _MANY,
        _INT8,
        (_LLAMA["Q8_0"], *_OPENVINO["int8"]),
        {"llama.cpp": 2.7, "openvino": 1.1},
    ),
    Row(
        "batching-32-bf16",
        "decode, batch 32, bf16",
        _MANY,
        _BF16,
        (_BATCHING,),
        {"transformers batching": 12.0},
        whole=frozenset({"transformers batching"}),
    ),
    Row("context-bf16", "context 1,024, bf16", _LONG, _BF16, (_LLAMA["BF16"],), {"llama.cpp": 1.4}),
    Row("context-int4", "context 1,024, int4", _LONG, _INT4, (_LLAMA["Q4_0"],), {"llama.cpp": 1.25}),
    Row("prefill-bf16", "prefill of 256, bf16", _PROMPT, _BF16, (_LLAMA["BF16"],), {"llama.cpp": 1.25}),
    Row(
        "prefill-int8",
        "prefill of 256, int8",
        _PROMPT,
        _INT8,
        (_LLAMA["Q8_0"], *_OPENVINO["int8"]),
        {"llama.cpp": 2.5, "openvino": 1.25},
    ),
    _of_family("amuse"),
    _of_family("draft"),
    *(
        Row(
            f"cores-{key}",
            f"two cores against one, {title}",
            work,
            _ours("large", "bf16", threads=2),
            (_BF16,),
            {OURS: 1.8},
        )
        for key, title, work in (
            ("decode", "decode, batch 8", _EIGHT),
            ("decode-32", "decode, batch 32", _MANY),
            ("prefill", "prefill of 256", _PROMPT),
        )
    ),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A row's outcome against one family, whose fastest contender was `peer`."""

    row: str
    title: str
    family: str
    peer: str
    ours_per_s: float
    peer_per_s: float
    ratio: float
    ratios: tuple[float, float]  # the smallest and the largest of the rounds
    target: float
    mbu: float | None = None
    mbu_target: float | None = None

    @property
    def is_reached(self) -> bool:
        """Whether the ratio is at least what was aimed at, and the share of the bandwidth too."""
        is_enough = self.mbu is None or self.mbu_target is None or self.mbu >= self.mbu_target
        return self.ratio >= self.target and is_enough


@dataclass(slots=True)
class Runs:
    """Tokens per second of each contender, round by round; `read_per_s` are bytes that ours had to read."""

    rates: dict[str, list[float]] = field(default_factory=dict)
    read_per_s: list[float] = field(default_factory=list)

    def add(self, name: str, answer: Mapping[str, float], clock: str) -> None:
        """Take in what a worker measured."""
        seconds = answer[clock]
        self.rates.setdefault(name, []).append(answer["tokens"] / seconds)
        if answer["read_bytes"]:
            self.read_per_s.append(answer["read_bytes"] / seconds)


def verdicts(row: Row, runs: Runs, bandwidth: float) -> list[Verdict]:
    """The row's lines, one for each family that took part. `bandwidth` is in bytes per second."""
    ours = runs.rates[row.ours.name]
    mbu = statistics.median(runs.read_per_s) / bandwidth if runs.read_per_s and row.work.steps else None
    found = []
    for family, target in row.targets.items():
        names = [each.name for each in row.peers if each.family == family and each.name in runs.rates]
        if not names:
            continue
        best = max(names, key=lambda name: statistics.median(runs.rates[name]))
        peers = runs.rates[best]
        peers = peers * len(ours) if len(peers) == 1 else peers  # timed once
        ratio = median_ratio(ours, peers)
        found.append(
            Verdict(
                row.key,
                row.title,
                family,
                best,
                statistics.median(ours),
                statistics.median(peers),
                ratio["median"],
                (ratio["min"], ratio["max"]),
                target,
                mbu,
                row.mbu_target,
            )
        )
    return found


def chosen(keys: Sequence[str] | None, families: Sequence[str] | None) -> list[Row]:
    """The rows whose keys begin with one of `keys`, with the peers of `families`; None: all.

    Raises ValueError for a key that no row has.
    """
    known = [row.key for row in ROWS]
    strange = [key for key in keys or () if not any(each.startswith(key) for each in known)]
    if strange:
        raise ValueError(f"no row is called {', '.join(strange)}; there are {', '.join(known)}, http and start-up")
    rows = [row for row in ROWS if keys is None or any(row.key.startswith(key) for key in keys)]
    if families is None:
        return rows
    wanted = {*families, OURS}
    return [each for row in rows if (each := _with_peers(row, wanted)).peers]


def _with_peers(row: Row, families: set[str]) -> Row:
    fields: dict[str, Any] = {name: getattr(row, name) for name in row.__slots__}
    return Row(**fields | {"peers": tuple(peer for peer in row.peers if peer.family in families)})


def groups(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows whose own engine is the same, or runs the same model: their workers stay loaded from row to row."""
    by_weights: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_weights.setdefault((row.ours.model, row.ours.weights), []).append(row)
    return list(by_weights.values())
