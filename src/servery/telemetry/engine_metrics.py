"""What engines tell of themselves, as metrics: figures of the newest `EngineStats`, in vLLM's meanings."""

from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.utils import floatToGoString

from servery.engine.stats import EngineInfo, EngineLife, EngineStats
from servery.engine.step_sizes import STEP_SIZES
from servery.telemetry.ceilings import Ceilings, Utilization, utilization
from servery.telemetry.residency import ModelState, Residency

StatsReader = Callable[[], EngineStats | None]
InfoReader = Callable[[], EngineInfo | None]
LifeReader = Callable[[], EngineLife]
UsesReader = Callable[[], Mapping[str, int]]
ResidencyReader = Callable[[], Residency]
CeilingsReader = Callable[[EngineInfo], Ceilings | None]

_SIZE_NAMES = [*map(floatToGoString, STEP_SIZES), "+Inf"]


class EngineCollector:
    """Turns the newest `EngineStats` of each engine into metrics."""

    def __init__(self) -> None:
        self.readers: dict[str, StatsReader] = {}
        self.infos: dict[str, InfoReader] = {}
        self.lives: dict[str, LifeReader] = {}
        self.adapter_uses: dict[str, UsesReader] = {}
        self.residences: dict[str, ResidencyReader] = {}
        self.ceilings: CeilingsReader = lambda info: None

    def collect(self) -> Iterable[Metric]:
        """The metrics of all engines; none of an engine that has not reported yet."""
        read = {model: stats for model, reader in self.readers.items() if (stats := reader()) is not None}
        yield from _gauges(read)
        yield from _counters(read)
        blocks = GaugeMetricFamily("servery_kv_blocks", "KV blocks, by what they are.", labels=["model_name", "state"])
        for model, stats in read.items():
            of = stats.scheduler
            for state, count in (("free", of.free_blocks), ("held", of.held_blocks), ("cached", of.cached_blocks)):
                blocks.add_metric([model, state], count)
        yield blocks
        yield _step_sizes(read)
        infos = {model: info for model, reader in self.infos.items() if (info := reader()) is not None}
        yield from _sizes(infos)
        yield from _rates(
            {
                model: utilization(stats, infos[model], self.ceilings(infos[model]))
                for model, stats in read.items()
                if model in infos
            }
        )
        yield from _lives({model: reader() for model, reader in self.lives.items()})
        yield from _residencies({model: reader() for model, reader in self.residences.items()})
        uses = CounterMetricFamily(
            "servery_lora_requests", "Requests for each loaded adapter.", labels=["model_name", "adapter"]
        )
        for model, of_adapters in self.adapter_uses.items():
            for adapter, count in of_adapters().items():
                uses.add_metric([model, adapter], count)
        yield uses


def _lives(lives: Mapping[str, EngineLife]) -> Iterable[Metric]:
    failures = CounterMetricFamily(
        "servery_engine_failures", "Engine processes that failed.", labels=["model_name", "cause"]
    )
    restarts = CounterMetricFamily("servery_engine_restarts", "Engine processes started again.", labels=["model_name"])
    for model, life in lives.items():
        restarts.add_metric([model], life.restarts)
        for cause, count in life.failures.items():
            failures.add_metric([model, cause], count)
    yield from (failures, restarts)


def _residencies(residencies: Mapping[str, Residency]) -> Iterable[Metric]:
    states = GaugeMetricFamily(
        "servery_model_state", "1 for the state that a model is in.", labels=["model_name", "state"]
    )
    loads = CounterMetricFamily("servery_model_loads", "Times it came into memory.", labels=["model_name"])
    failures = CounterMetricFamily("servery_model_load_failures", "Times it could not.", labels=["model_name"])
    seconds = CounterMetricFamily("servery_model_load_seconds", "Time that coming took.", labels=["model_name"])
    releases = CounterMetricFamily("servery_model_releases", "Times it left memory.", labels=["model_name", "by"])
    for model, residency in residencies.items():
        for state in ModelState:
            states.add_metric([model, state.value], state is residency.state)
        loads.add_metric([model], residency.loads)
        failures.add_metric([model], residency.failed_loads)
        seconds.add_metric([model], residency.load_s)
        for by, count in residency.releases.items():
            releases.add_metric([model, by.value], count)
    yield from (states, loads, failures, seconds, releases)


def _sizes(infos: Mapping[str, EngineInfo]) -> Iterable[Metric]:
    weights = GaugeMetricFamily("servery_weight_bytes", "Memory of the weights.", labels=["model_name", "dtype"])
    size = GaugeMetricFamily("servery_kv_cache_bytes", "Memory of the KV cache.", labels=["model_name", "kv_dtype"])
    tokens = GaugeMetricFamily("servery_kv_cache_tokens", "Tokens it can hold.", labels=["model_name", "kv_dtype"])
    for model, info in infos.items():
        weights.add_metric([model, info.weight_dtype], info.weight_bytes)
        size.add_metric([model, info.kv_dtype], info.kv_bytes)
        tokens.add_metric([model, info.kv_dtype], info.num_blocks * info.block_size)
    yield from (weights, size, tokens)
    yield from _measured_at_start(infos)


def _measured_at_start(infos: Mapping[str, EngineInfo]) -> Iterable[Metric]:
    """What only engines on GPUs, or of several processes, have."""
    figures: tuple[tuple[str, str, Callable[[EngineInfo], float]], ...] = (
        ("workspace_bytes", "Memory of a step's activations.", lambda i: i.workspace_bytes),
        ("load_link_bytes_per_second", "How fast weights went to the GPU.", lambda i: i.link_bytes_per_s),
        ("all_reduce_seconds", "A sum of a token's hidden state over all processes.", lambda i: i.sum_s),
        ("step_all_reduce_seconds", "All such sums of a step that decodes a token.", lambda i: i.step_sums_s),
    )
    for name, text, figure in figures:
        family = GaugeMetricFamily(f"servery_engine_{name}", text, labels=["model_name"])
        for model, info in infos.items():
            if (value := figure(info)) > 0:
                family.add_metric([model], value)
        yield family


def _step_sizes(read: Mapping[str, EngineStats]) -> Metric:
    family = HistogramMetricFamily("servery_iteration_tokens_total", "Positions per step.", labels=["model_name"])
    for model, stats in read.items():
        counts = list(zip(_SIZE_NAMES, map(float, accumulate(stats.step_sizes)), strict=True))
        family.add_metric([model], counts, stats.step_tokens)
    return family


def _rates(read: Mapping[str, Utilization]) -> Iterable[Metric]:
    figures: tuple[tuple[str, str, Callable[[Utilization], float | None]], ...] = (
        ("achieved_bytes_per_second", "What the last steps read at least, in their time.", lambda u: u.bytes_per_s),
        (
            "achieved_operations_per_second",
            "What the last steps computed, in their time.",
            lambda u: u.operations_per_s,
        ),
        ("peak_bytes_per_second", "What the machine can read.", lambda u: u.peak_bytes_per_s),
        ("peak_operations_per_second", "What it can compute in the engine's type.", lambda u: u.peak_operations_per_s),
        ("mbu", "Share of the memory bandwidth that the last steps came to.", lambda u: u.mbu),
        ("mfu", "Share of the operations that the last steps came to.", lambda u: u.mfu),
    )
    for name, text, figure in figures:
        family = GaugeMetricFamily(f"servery_engine_{name}", text, labels=["model_name"])
        for model, used in read.items():
            if (value := figure(used)) is not None:
                family.add_metric([model], value)
        yield family


def _gauges(read: Mapping[str, EngineStats]) -> Iterable[Metric]:
    figures: tuple[tuple[str, str, Callable[[EngineStats], float]], ...] = (
        ("num_requests_running", "Sequences being computed.", lambda s: s.scheduler.running),
        ("num_requests_waiting", "Sequences waiting to be computed.", lambda s: s.scheduler.waiting),
        ("num_tokens_waiting", "Prompt tokens of waiting requests.", lambda s: s.scheduler.waiting_tokens),
        ("kv_cache_usage_perc", "Share of the KV blocks in use; 1 is all of them.", _kv_usage),
        ("lora_adapters", "LoRA adapters that can be asked for.", lambda s: s.adapters),
        (
            "spec_decode_draft_acceptance_rate",
            "Share of the drafted tokens that stood, since the start.",
            lambda s: s.scheduler.draft_acceptance_rate,
        ),
        (
            "spec_decode_mean_accepted_length",
            "Tokens for each verification of drafts, the model's own one included.",
            lambda s: s.scheduler.mean_accepted_length,
        ),
        ("engine_cuda_graphs", "CUDA graphs captured.", lambda s: s.graphs),
        ("engine_cuda_graph_bytes", "Memory of the CUDA graphs.", lambda s: s.graph_bytes),
        (
            "lora_adapter_bytes",
            "Memory of all adapters, those in use for the last time included.",
            lambda s: s.adapter_bytes,
        ),
    )
    for name, text, figure in figures:
        yield _family(GaugeMetricFamily, name, text, figure, read)


def _counters(read: Mapping[str, EngineStats]) -> Iterable[Metric]:
    figures: tuple[tuple[str, str, Callable[[EngineStats], float]], ...] = (
        ("prefix_cache_queries", "Prompt tokens looked up.", lambda s: s.scheduler.prefix_query_tokens),
        ("prefix_cache_hits", "Prompt tokens found.", lambda s: s.scheduler.prefix_hit_tokens),
        ("num_preemptions", "Sequences pushed out to make room.", lambda s: s.scheduler.preemptions),
        ("requests_rejected", "Requests refused by a full queue.", lambda s: s.scheduler.rejected_requests),
        ("requests_expired", "Requests refused while waiting.", lambda s: s.scheduler.expired_requests),
        ("engine_aborted_sequences", "Sequences aborted.", lambda s: s.scheduler.finished_abort),
        ("engine_steps", "Steps run.", lambda s: s.steps),
        ("engine_failed_steps", "Steps that failed.", lambda s: s.failed_steps),
        ("engine_interrupted_steps", "Steps of the background left for others.", lambda s: s.interrupted_steps),
        ("engine_step_seconds", "Time spent in steps.", lambda s: s.step_s),
        ("engine_step_tokens", "Positions computed in steps.", lambda s: s.step_tokens),
        ("engine_host_seconds", "Time that the host was at work on steps.", lambda s: s.host_s),
        ("engine_decode_steps", "Steps that gave each sequence a token.", lambda s: s.decode_steps),
        ("engine_decode_step_seconds", "Time spent in those.", lambda s: s.decode_s),
        ("engine_decode_host_seconds", "Time that the host was at work on those.", lambda s: s.decode_host_s),
        ("engine_cuda_graph_seconds", "Time spent capturing CUDA graphs.", lambda s: s.graph_s),
        ("structured_grammars_compiled", "Forms of answers compiled.", lambda s: s.structure.compiled),
        ("structured_grammars_refused", "Forms that could not be.", lambda s: s.structure.refused),
        ("structured_grammar_hits", "Requests whose form was there already.", lambda s: s.structure.hits),
        ("structured_compile_seconds", "Time spent compiling forms.", lambda s: s.structure.compile_s),
        ("structured_masks", "Masks of allowed tokens computed.", lambda s: s.structure.masks),
        ("structured_mask_seconds", "Time spent computing masks.", lambda s: s.structure.mask_s),
        ("structured_forced_tokens", "Tokens that forms left no choice about.", lambda s: s.structure.forced_tokens),
        ("spec_decode_num_drafts", "Verifications of a sequence's drafts.", lambda s: s.scheduler.draft_rounds),
        ("spec_decode_num_draft_tokens", "Tokens drafted.", lambda s: s.scheduler.drafted_tokens),
        ("spec_decode_num_accepted_tokens", "Drafts that stood.", lambda s: s.scheduler.accepted_draft_tokens),
        ("engine_read_bytes", "Bytes that the steps had to read at least.", lambda s: s.read_bytes),
        ("engine_operations", "Floating-point operations of the steps' products.", lambda s: s.operations),
    )
    for name, text, figure in figures:
        yield _family(CounterMetricFamily, name, text, figure, read)


def _family(
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily],
    name: str,
    text: str,
    figure: Callable[[EngineStats], float],
    read: Mapping[str, EngineStats],
) -> Metric:
    family = kind(f"servery_{name}", text, labels=["model_name"])
    for model, stats in read.items():
        family.add_metric([model], figure(stats))
    return family


def _kv_usage(stats: EngineStats) -> float:
    total = stats.scheduler.num_blocks
    return stats.scheduler.held_blocks / total if total else 0.0
