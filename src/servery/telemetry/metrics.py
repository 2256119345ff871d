"""What Prometheus is told: names and meanings follow vLLM's, under the prefix `servery_`.

Labels are bounded: models are the served ones, routes the known ones (`other` for the rest), statuses three digits.
"""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric

from servery.engine.stats import EngineInfo, EngineStats
from servery.telemetry.answer_timing import AnswerTiming
from servery.telemetry.batch_metrics import BatchCollector, BatchFigures
from servery.telemetry.ceilings import Utilization, utilization
from servery.telemetry.engine_metrics import (
    CeilingsReader,
    EngineCollector,
    InfoReader,
    LifeReader,
    ResidencyReader,
    StatsReader,
    UsesReader,
)
from servery.telemetry.gateway_metrics import GatewayMetrics
from servery.telemetry.process_metrics import watch_process
from servery.telemetry.slo_watch import SloWatch, nothing_watched
from servery.telemetry.tallies import Counter, Histogram, Tally
from servery.telemetry.trace_metrics import TraceCollector
from servery.telemetry.traces.outbox import SpanFigures

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_TPOT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5)
_E2E_S = (0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)

FINISHED_BY = ("stop", "length", "tool_calls", "abort", "error", "other")
ABORTED_BY = ("client", "timeout", "shutdown", "error")


class Metrics:
    """Everything counted in one server process, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._engines = EngineCollector()
        self._registry.register(self._engines)
        watch_process(self._registry)
        self._batches = BatchCollector()
        self._registry.register(self._batches)
        self._traces = TraceCollector()
        self._registry.register(self._traces)
        self._models: dict[str, ModelMetrics] = {}
        self._answered: dict[tuple[str, str, int], Tally] = {}
        self.gateway = GatewayMetrics(self._registry)
        self._slo = _Slo(nothing_watched())
        self._registry.register(self._slo)
        counter, histogram = self._counter, self._histogram
        self._http = counter("http_requests", "Requests answered, by route and status.", "method", "route", "status")
        self.prompt = counter("prompt_tokens", "Prompt tokens of requests that were taken.", "model_name")
        self.cached = counter("prompt_tokens_cached", "Of these, supplied by the prefix cache.", "model_name")
        self.generated = counter("generation_tokens", "Tokens generated.", "model_name")
        self.finished = counter("request_success", "Completions that ended.", "model_name", "finished_reason")
        self.aborted = counter("request_aborts", "Answers cut short, by who did it.", "model_name", "by")
        self.ttft = histogram("time_to_first_token_seconds", "From arrival to the first token.", _TTFT_S)
        self.itl = histogram("inter_token_latency_seconds", "Between tokens of one completion.", _TPOT_S)
        self.tpot = histogram("request_time_per_output_token_seconds", "Mean after the first token.", _TPOT_S)
        self.e2e = histogram("e2e_request_latency_seconds", "From arrival to the end of the answer.", _E2E_S)
        self.queue = histogram("request_queue_time_seconds", "From arrival to being scheduled first.", _E2E_S)
        self.prompt_size = histogram("request_prompt_tokens", "Prompt tokens per request.", _TOKENS)
        self.answer_size = histogram("request_generation_tokens", "Generated tokens per request.", _TOKENS)

    def watch_engine(self, model: str, read: StatsReader, info: InfoReader = lambda: None) -> None:
        """Report an engine's own figures, and what was resolved when it was loaded, read whenever the metrics are."""
        self._engines.readers[model] = read
        self._engines.infos[model] = info

    def watch_ceilings(self, read: CeilingsReader) -> None:
        """Report what engines' steps come to of what their machine can do."""
        self._engines.ceilings = read

    def utilization(self, stats: EngineStats, info: EngineInfo) -> Utilization:
        """What an engine's last steps come to of what its machine can do, as it is reported."""
        return utilization(stats, info, self._engines.ceilings(info))

    def watch_life(self, model: str, read: LifeReader) -> None:
        """Report how often an engine's process failed and was started again."""
        self._engines.lives[model] = read

    def watch_adapters(self, model: str, read: UsesReader) -> None:
        """Report how often each LoRA adapter was asked for; `read` gives those of now, so there are few at any time."""
        self._engines.adapter_uses[model] = read

    def watch_residence(self, model: str, read: ResidencyReader) -> None:
        """Report whether a model is in memory, and how often it came and went."""
        self._engines.residences[model] = read

    def watch_batches(self, read: Callable[[], BatchFigures]) -> None:
        """Report the batches as they are whenever the metrics are read."""
        self._batches.read = read

    def watch_traces(self, read: Callable[[], SpanFigures]) -> None:
        """Report what became of spans whenever the metrics are read."""
        self._traces.read = read

    def watch_slo(self, watch: SloWatch) -> None:
        """Report what became of the SLOs, as of its last reading."""
        self._slo.watch = watch

    def forget_engine(self, model: str) -> None:
        """Report an engine no more."""
        engines = self._engines
        for known in (engines.readers, engines.infos, engines.lives, engines.adapter_uses, engines.residences):
            known.pop(model, None)

    def count_request(self, method: str, route: str, status: int) -> None:
        """Count an HTTP request that was answered with `status` (499: the client had gone)."""
        answered = self._answered.get((method, route, status))
        if answered is None:
            answered = self._answered[method, route, status] = self._http.labels(method, route, str(status))
        answered.value += 1

    def of_model(self, name: str) -> "ModelMetrics":
        """The metrics of one model; made once, because finding a label costs more than counting."""
        if name not in self._models:
            self._models[name] = ModelMetrics(self, name)
        return self._models[name]

    def render(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"servery_{name}", text, labels, self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"servery_{name}", text, ("model_name",), buckets, self._registry)


class ModelMetrics:
    """What is counted for one model."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._prompt = metrics.prompt.labels(model)
        self._cached = metrics.cached.labels(model)
        self._generated = metrics.generated.labels(model)
        self._finished = {reason: metrics.finished.labels(model, reason) for reason in FINISHED_BY}
        self._aborted = {by: metrics.aborted.labels(model, by) for by in ABORTED_BY}
        self._ttft = metrics.ttft.labels(model)
        self._itl = metrics.itl.labels(model)
        self._tpot = metrics.tpot.labels(model)
        self._e2e = metrics.e2e.labels(model)
        self._queue = metrics.queue.labels(model)
        self._prompt_size = metrics.prompt_size.labels(model)
        self._answer_size = metrics.answer_size.labels(model)

    def count_prompt(self, prompt_tokens: int, cached_tokens: int) -> None:
        """Count a prompt whose first token has come."""
        self._prompt.value += prompt_tokens
        self._cached.value += cached_tokens
        self._prompt_size.observe(prompt_tokens)

    def count_tokens(self, tokens: int, gap_s: float | None) -> None:
        """Count tokens that a completion got, `gap_s` after its last ones."""
        self._generated.value += tokens
        if gap_s is not None:
            self._itl.observe(gap_s)

    def count_finish(self, reason: str) -> None:
        """Count a completion that the engine ended, for one of the reasons of `FINISHED_BY`."""
        self._finished[reason].value += 1

    def count_abort(self, by: str) -> None:
        """Count an answer that was cut short by one of `ABORTED_BY`."""
        self._aborted[by].inc()

    def observe_queue(self, queued_s: float) -> None:
        """Take in how long a request waited for the engine."""
        self._queue.observe(queued_s)

    def observe_answer(self, timing: AnswerTiming, now: float) -> None:
        """Take in the times of an answer that is over: complete, or cut short after its first token."""
        self._e2e.observe(now - timing.arrived_s)
        if timing.ttft_s is not None:
            self._ttft.observe(timing.ttft_s)
            self._answer_size.observe(timing.tokens)
            for tpot_s in timing.tpots_s:
                self._tpot.observe(tpot_s)


class _Slo:
    """What is told of SLOs."""

    def __init__(self, watch: SloWatch) -> None:
        self.watch = watch

    def collect(self) -> Iterable[Metric]:
        """As of the last reading."""
        return self.watch.collect()
