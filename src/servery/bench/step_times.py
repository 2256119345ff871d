"""Where the time of a step goes: a decoder whose parts are timed, and what each part has to read and to multiply."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from servery.engine.attention.backend import AttentionBackend, AttentionPlan
from servery.engine.batch import Batch
from servery.engine.decoder import Decoder
from servery.engine.kv import KVCache
from servery.engine.linear import Linear

LINEARS, ATTENTION, HEAD, REST = "linears", "attention", "head", "rest"
_ROUNDS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class PartTime:
    """One part of a step: median seconds, the bytes it reads at least, the floating-point operations of its products.

    `operations` of a rest that is neither is 0.
    """

    name: str
    seconds: float
    bytes_read: int
    operations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """A step of `rows` sequences with `tokens` new tokens each, of `context` tokens in the end."""

    rows: int
    tokens: int
    context: int
    seconds: float
    parts: tuple[PartTime, ...]


class _Clock:
    """Seconds by name, since the last reading."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)

    def add(self, name: str, began: float) -> None:
        self._seconds[name] += perf_counter() - began

    def hear(self, name: str, seconds: float) -> None:
        self._seconds[name] += seconds

    def read(self) -> dict[str, float]:
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds


class _TimedLinear:
    """A linear that tells how long it takes."""

    def __init__(self, inner: Linear, clock: _Clock) -> None:
        self._inner = inner
        self._clock = clock

    @property
    def shape(self) -> tuple[int, int]:
        return self._inner.shape

    @property
    def nbytes(self) -> int:
        return self._inner.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        began = perf_counter()
        result = self._inner(x)
        self._clock.add(LINEARS, began)
        return result

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        began = perf_counter()
        result = self._inner.add_to(residual, x)
        self._clock.add(LINEARS, began)
        return result


class _TimedAttention:
    """An attention backend that tells how long it takes, its planning included."""

    def __init__(self, inner: AttentionBackend, clock: _Clock) -> None:
        self._inner = inner
        self._clock = clock

    def plan(self, batch: Batch, cache: KVCache) -> "_TimedPlan":
        began = perf_counter()
        plan = self._inner.plan(batch, cache)
        self._clock.add(ATTENTION, began)
        return _TimedPlan(plan, self._clock)


class _TimedPlan:
    def __init__(self, inner: AttentionPlan, clock: _Clock) -> None:
        self._inner = inner
        self._clock = clock

    def attend(self, layer: int, query: Tensor) -> Tensor:
        began = perf_counter()
        result = self._inner.attend(layer, query)
        self._clock.add(ATTENTION, began)
        return result


class StepTimer:
    """Times steps of a model over a cache that nobody else uses."""

    def __init__(self, model: Decoder, cache: KVCache) -> None:
        self._model = model
        self._cache = cache
        self._clock = _Clock()
        self._linears: list[Linear] = []
        timed = model.adapted(self._timed)
        self._timed_model = timed.with_attention(_TimedAttention(model.attention, self._clock))
        if model.loop is not None:  # steps as they are served, which tell of their parts themselves
            model.loop.listen(self._clock.hear)
            self._timed_model = model

    def time(self, rows: int, tokens: int, context: int, rounds: int = _ROUNDS) -> StepTime:
        """Medians over `rounds` of a step in which `rows` sequences get to `context` tokens by `tokens` new ones each.

        Raises ValueError if the cache is too small for that.
        """
        batch = self._batch(rows, tokens, context)
        last = torch.arange(1, rows + 1) * tokens - 1
        seen: list[dict[str, float]] = []
        for _ in range(rounds + 2):
            began = perf_counter()
            hidden = self._timed_model.forward(batch, self._cache)
            head_began = perf_counter()
            self._timed_model.logits(hidden.index_select(0, last))
            self._clock.add(HEAD, head_began)
            seen.append({**self._clock.read(), "all": perf_counter() - began})
        return self._summed(seen[2:], rows, tokens, context)  # the first ones warm up

    def _timed(self, name: str, linear: Linear) -> Linear:
        self._linears.append(linear)
        return _TimedLinear(linear, self._clock)

    def _batch(self, rows: int, tokens: int, context: int) -> Batch:
        size = self._cache.block_size
        needed = -(-context // size)
        if rows * needed > self._cache.num_blocks:
            raise ValueError(f"{rows} contexts of {context} tokens do not fit into {self._cache.num_blocks} KV blocks")
        tables = [range(row * needed, (row + 1) * needed) for row in range(rows)]
        return Batch.build([([1] * tokens, context - tokens, table) for table in tables], size)

    def _summed(self, seen: Sequence[dict[str, float]], rows: int, tokens: int, context: int) -> StepTime:
        whole = statistics.median(each["all"] for each in seen)
        seconds = {name: statistics.median(each.get(name, 0.0) for each in seen) for name in (LINEARS, ATTENTION, HEAD)}
        work = self._work(rows, tokens, context)
        parts = [
            PartTime(name=name, seconds=seconds[name], bytes_read=work[name][0], operations=work[name][1])
            for name in seconds
        ]
        rest = PartTime(name=REST, seconds=max(0.0, whole - sum(seconds.values())), bytes_read=0, operations=0)
        return StepTime(rows=rows, tokens=tokens, context=context, seconds=whole, parts=(*parts, rest))

    def _work(self, rows: int, tokens: int, context: int) -> dict[str, tuple[int, int]]:
        """Bytes and operations of each part."""
        config, count = self._model.config, rows * tokens
        shapes = [linear.shape for linear in self._linears]
        seen = rows * sum(context - tokens + 1 + at for at in range(tokens))  # pairs of query and key position
        attended = 4 * seen * config.num_layers * config.num_heads * config.head_dim
        head = config.hidden_size * config.vocab_size
        return {
            LINEARS: (sum(linear.nbytes for linear in self._linears), 2 * count * sum(n * k for n, k in shapes)),
            ATTENTION: (rows * context * self._cache.row_bytes * config.num_layers, attended),
            HEAD: (self._model.head_bytes, 2 * rows * head),
        }
