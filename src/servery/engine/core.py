"""The engine core: one loop body. Take requests, schedule, run, commit, hand out."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from servery.byte_size import format_byte_size
from servery.engine.adapter_source import AdapterInfo, AdapterSource
from servery.engine.admission import check_servable
from servery.engine.ahead import AheadRunner, Flight
from servery.engine.architecture import ModelConfig
from servery.engine.available_memory import available_bytes
from servery.engine.config import EngineConfig, StepLimits
from servery.engine.doorbell import Doorbell, Interrupted, Interruption
from servery.engine.errors import CannotSleep, EngineError, LoadError, NotEnoughMemory
from servery.engine.glimpse import Glimpse, Onlooker
from servery.engine.launch import GraphStats
from servery.engine.launching import open_launcher
from servery.engine.loaded_model import LoadedModel, load
from servery.engine.lora.pool import AdapterPool
from servery.engine.memory import KVPlan
from servery.engine.ranks.meeting import part_company
from servery.engine.request import NewRequest, Output, Sequence, StepResult, check_params
from servery.engine.runner import Runner
from servery.engine.scheduler import Scheduler, SchedulerConfig, Step
from servery.engine.shortage import step_advice
from servery.engine.speculation.speculator import Speculator
from servery.engine.speculation.window import WindowPolicy
from servery.engine.stats import EngineStats
from servery.engine.step_work import StepOperations, StepWork
from servery.engine.structure.compiler import Compiler
from servery.engine.structure.door import Door
from servery.engine.structure.intake import Intake, refused
from servery.engine.structure.structure import Structure
from servery.engine.structure.vocabulary import Vocabulary
from servery.engine.tokenizer import Tokenizer
from servery.engine.weights import Progress

log = logging.getLogger(__name__)


# How long an idle engine looks at nothing but grammars being compiled, before it reads its mailbox again.
COMPILE_WAIT_S = 0.01
# After a step that failed in several processes, how long we wait to learn that one of them is gone.
DEATH_PATIENCE_S = 3.0


@dataclass(slots=True)
class _Counters:
    failed_steps: int = 0
    interrupted_steps: int = 0


class EngineCore:
    """A loaded model with its scheduler. The same class runs in a process of its own and inside `LLM`.

    Not thread-safe: one thread calls it. `clock` gives monotonic seconds, shared with the servers that set deadlines.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        progress: Progress | None = None,
        planned: Callable[[KVPlan], None] = lambda plan: None,
        before_step: Callable[[float | None], None] = lambda expected_s: None,
        bell: Doorbell | None = None,
        on_death: Callable[[str], None] = lambda message: None,
        wait: Callable[[], None] = lambda: None,
        ahead: bool | None = None,
        load: Callable[..., LoadedModel] = load,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Load the model and reserve its KV cache; raises `LoadError`. `progress` is told (bytes done, bytes total).

        `planned` is told what memory will be taken, before it is; `before_step` how long the step that begins should
        take, None before any was measured. A step in the background is left when `bell` is rung after `listen`.
        `load` is what loads, see `loaded_model.load`. With `ahead` a step is launched before the one before it has ended; None: on a GPU, and without speculation.
        `on_death` is told, on a thread of its own, when one of several processes that compute the model has ended; `wait`
        is called while other machines are waited for, and may raise to end that.
        """
        self._clock, self._before_step = clock, before_step
        self._flight: Flight | None = None
        self._counters, self._work = _Counters(), StepWork()
        self._decoded_s: float | None = None  # of the newest step, if each of its sequences had one token
        self._bell, self._heard = bell, 0
        self._onlooker = Onlooker()
        self._checkpoint, self._door = config.model, Door()
        loaded = load(config, progress=progress, planned=planned, on_death=on_death, wait=wait)
        self._crew = loaded.crew
        self.info = loaded.info
        self._model_config = loaded.model_config
        self._operations = StepOperations(loaded.model_config)
        # For what computes beside the scheduler while nothing is scheduled (`teacher_forcing`).
        self.model, self.cache = loaded.model, loaded.cache
        self._swap = loaded.swap(config.sleep_dir)
        self._speculator = (
            None if loaded.proposer is None else Speculator(loaded.proposer, partial(WindowPolicy, config.max_drafts))
        )
        self.adapters = AdapterPool(loaded.model, loaded.adapter_limits)
        self._compiler = Compiler(self._load_vocabulary)
        self._structure = Structure(self._compiler)
        self._intake = Intake(self._compiler, config.max_waiting_requests)
        self._runner = Runner(loaded.model, loaded.cache, self.adapters, self._structure, loaded.rows)
        self._ahead = None if self._speculator is not None else self._open_ahead(loaded, ahead=ahead)
        self.scheduler = Scheduler(_scheduler_config(config, loaded.plan, self._model_config, loaded.step_limits))

    @property
    def processes(self) -> list[int]:
        """The numbers of the other processes that compute the model."""
        return [] if self._crew is None else self._crew.pids

    @property
    def has_work(self) -> bool:
        """Whether a step would find anything to do."""
        return self.scheduler.has_work or len(self._intake) > 0 or self._flight is not None

    def listen(self) -> None:
        """To be called before looking who has come: whoever rings from now on is not known to have been seen."""
        if self._bell is not None:
            self._heard = self._bell.rings

    def check_processes(self) -> None:
        """Raise `EngineDead` if another process of the model is gone: nothing can be computed any more."""
        if self._crew is not None:
            self._crew.check()

    def check(self, request: NewRequest) -> None:
        """Raise `InvalidRequest` or `PromptTooLong` if the request can never be served as it is."""
        check_params(request.params, self._model_config.vocab_size)
        self.adapters.check(request.adapter)
        check_servable(request, self.scheduler.config)
        if request.params.constraint is not None:
            self._door.check_now(request.params.constraint)

    def add(self, request: NewRequest, seed: int) -> None:
        """Queue a request; raises `InvalidRequest`, `PromptTooLong` or `Overloaded`, and then nothing was queued."""
        check_params(request.params, self._model_config.vocab_size)
        self.adapters.check(request.adapter)
        constraint = request.params.constraint
        if constraint is None or request.pooling:
            self.scheduler.add(request, seed, self._clock())
        elif (matcher := self._compiler.kept(constraint)) is not None:
            self._structure.attach(self.scheduler.add(request, seed, self._clock()), matcher)
        else:
            check_servable(request, self.scheduler.config)
            self._intake.take(request, seed, constraint)

    def abort(self, request_id: str, index: int | None = None) -> None:
        """Forget a request, or one of its completions, at once; unknown ids are ignored."""
        self._intake.abort(request_id, index)
        self.scheduler.abort(request_id, index)
        self._sweep_adapters()

    def load_adapter(self, adapter_id: int, source: AdapterSource) -> AdapterInfo:
        """Let requests use the adapter in a folder, by an id that no other ever had; raises `LoadError`."""
        self.adapters.reserve(adapter_id, source)
        try:
            return self.adapters.install(self.adapters.read(adapter_id, source))
        except LoadError:
            self.adapters.release(adapter_id)
            raise

    def unload_adapter(self, adapter_id: int) -> None:
        """Let no new request use an adapter; its memory goes with the last that does. Unknown ids are ignored."""
        self.adapters.retire(adapter_id)
        self._sweep_adapters()

    def step(self) -> list[Output]:
        """Run one step; the outputs include refusals of requests whose deadline passed while they waited.

        With nothing to run but grammars being compiled, waits for one, but never long.
        """
        outputs = self._admit_compiled()
        if self._holds_back:
            return outputs
        began, waited_s, before = time.perf_counter(), self._waited_s, self._work.steps
        outputs += self._step_here() if self._ahead is None else self._step_ahead(self._ahead)
        if self._work.steps > before:  # else nothing was computed
            self._work.add_host(time.perf_counter() - began - (self._waited_s - waited_s), self._decoded_s)
        return outputs

    @property
    def _waited_s(self) -> float:
        """For how long in all the host had nothing to do but to wait for steps; on a CPU it computes them itself."""
        return self._work.step_s if self._ahead is None else self._ahead.waited_s

    def _step_here(self) -> list[Output]:
        """Decide a step, compute it, record it."""
        outputs: list[Output] = []
        self._draft()
        step = self.scheduler.schedule(self._clock())
        if not step.scheduled:
            self._sweep_adapters()  # what was refused may have been the last to use one
            return [*outputs, *step.refused]
        try:
            step, results = self._run(step)
        except Interrupted:
            self._leave(step)
            return [*outputs, *step.refused]
        except (RuntimeError, MemoryError) as error:
            return [*outputs, *step.refused, *self._failed(step, error)]
        outputs += step.refused
        outputs += self.scheduler.commit(step, results, self._clock())
        self._sweep_adapters()
        return outputs

    def _step_ahead(self, ahead: AheadRunner) -> list[Output]:
        """Launch a step, and the one after it if that needs to know no token of it; then record what the first one gave."""
        outputs: list[Output] = []
        if self._flight is None:
            self._flight = self._launch(ahead, outputs, None)
            outputs += self._complete(ahead)
        flight, self._flight = self._flight, None
        if flight is not None:
            if flight.is_open:
                self.scheduler.expect(flight.step)
                self._flight = self._launch(ahead, outputs, flight)
            outputs += self._land(ahead, flight)
            outputs += self._complete(ahead)
        return outputs

    def _launch(self, ahead: AheadRunner, outputs: list[Output], before: Flight | None) -> Flight | None:
        """Decide a step and launch it; None if there is nothing to do, or if it failed."""
        step = self.scheduler.schedule(self._clock())
        outputs += step.refused
        if not step.scheduled:
            self._sweep_adapters()
            return None
        self._before_step(self.scheduler.expected_s(step))
        try:
            return ahead.launch(step, before)
        except (RuntimeError, MemoryError) as error:
            outputs += self._failed(step, error)
            return None

    def _complete(self, ahead: AheadRunner) -> list[Output]:
        """Complete the step that was launched, if there is one: all before it are recorded."""
        if self._flight is None:
            return []
        flight, self._flight = self._flight, None
        try:
            ahead.complete(flight)
        except (RuntimeError, MemoryError) as error:
            return self._failed(flight.step, error)
        self._flight = flight
        return []

    def _land(self, ahead: AheadRunner, flight: Flight) -> list[Output]:
        """Wait for a step, and record it."""
        try:
            results, elapsed_s = ahead.land(flight)
        except (RuntimeError, MemoryError) as error:
            return self._failed(flight.step, error)
        self._count(flight.step, elapsed_s)
        self.scheduler.observe(flight.step, elapsed_s)
        outputs = self.scheduler.commit(flight.step, results, self._clock())
        self._sweep_adapters()
        return outputs

    def _open_ahead(self, loaded: LoadedModel, *, ahead: bool | None) -> AheadRunner | None:
        launcher = loaded.launcher
        if ahead and launcher is None:
            limits, model_len = loaded.step_limits, loaded.plan.max_model_len
            launcher = open_launcher(
                loaded.model, loaded.cache, limits, model_len, can_capture=False, logits=loaded.model.logits
            )
        if launcher is None or ahead is False or loaded.adapter_limits.max_loras:
            return None
        return AheadRunner(self._runner, launcher, loaded.cache, loaded.step_limits.max_running, loaded.crew)

    def _failed(self, step: Step, error: Exception) -> list[Output]:
        if self._crew is not None:
            self._crew.check(DEATH_PATIENCE_S)  # without the others no further step can be computed
        return self._fail(step, error)

    def _draft(self) -> None:
        """Draft what constraints force, and for the others what speculation expects to pay."""
        if self._speculator is None and not self._structure.has_followers:
            return
        decoding = self.scheduler.decoding
        self._structure.propose(decoding)
        if self._speculator is not None and not self._speculator.sits_out(len(decoding)):
            self._speculator.propose(decoding, self.scheduler.spare_tokens)
        if self.info.speculate == "ngram":  # a draft model's drafts are not known yet
            self._structure.prune(decoding)

    def _run(self, step: Step) -> tuple[Step, dict[Sequence, StepResult]]:
        """Complete the step's drafts, compute it, and let everybody who predicts learn how long it took.

        The step returned has the drafts that came of it, perhaps fewer than were granted.
        """
        self._before_step(self.scheduler.expected_s(step))
        proposals: Mapping[Sequence, Tensor] = {}
        if self._speculator is not None:
            step, proposals = self._speculator.complete(step)
        started = time.perf_counter()
        results = self._runner.run(step, proposals, self._interruption(step))
        elapsed_s = time.perf_counter() - started
        self._count(step, elapsed_s)
        self.scheduler.observe(step, elapsed_s)
        if self._speculator is not None:
            self._speculator.observe(step, results)
        return step, results

    def sleep(self) -> int:
        """Give the memory of weights and KV cache back to the system; returns how many bytes.

        Raises `CannotSleep`, also while there is work. Until `wake` nothing may be added.
        """
        if self.has_work:
            raise CannotSleep("requests are under way; let them end, or abort them.")
        if self.model.device.type != "cpu" or self._crew is not None:
            raise CannotSleep("only a model in the memory of one process can sleep; let it sleep at level 2 instead.")
        self.scheduler.forget_cached()
        if self._speculator is not None:
            self._speculator.forget()
        return self._swap.out()

    def wake(self) -> None:
        """Take it again; raises `NotEnoughMemory`, and it sleeps on. After an `OSError` there are no weights left."""
        needed_bytes, available = self._swap.kept_bytes, available_bytes()
        if available is not None and available < needed_bytes:
            raise NotEnoughMemory(
                f"not enough memory: the weights need {needed_bytes} bytes again, but {format_byte_size(available)} are "
                "available. Free memory, or put another model to sleep.",
                needed_bytes,
            )
        self._swap.back()

    def close(self) -> None:
        """End the other processes of the model, if there are any; nothing can be computed then. Safe to call twice."""
        if self._crew is not None:
            self._crew.close()
            part_company()

    def stats(self) -> EngineStats:
        """A snapshot of all counters."""
        counters, work = self._counters, self._work
        graphs = GraphStats() if self._ahead is None else self._ahead.graphs
        return EngineStats(
            scheduler=self.scheduler.stats(),
            steps=work.steps,
            step_s=work.step_s,
            step_tokens=work.step_tokens,
            read_bytes=work.read_bytes,
            operations=work.operations,
            bytes_per_s=work.bytes_per_s,
            operations_per_s=work.operations_per_s,
            step_sizes=tuple(work.step_sizes),
            failed_steps=counters.failed_steps,
            interrupted_steps=counters.interrupted_steps,
            host_s=work.host_s,
            decode_steps=work.decode_steps,
            decode_s=work.decode_s,
            decode_host_s=work.decode_host_s,
            graphs=graphs.graphs,
            graph_bytes=graphs.nbytes,
            graph_s=graphs.seconds,
            adapters=self.adapters.num_loaded,
            adapter_bytes=self.adapters.nbytes,
            structure=self._structure.stats(),
        )

    def look(self) -> None:
        """Somebody looks: for a few seconds there are glimpses."""
        self._onlooker.look(self._clock())

    def glimpse(self) -> Glimpse | None:
        """What there is to be seen; None if nobody looks, or it is too soon."""
        return self._onlooker.glimpse(self.scheduler.pool, self._clock()) if self._onlooker.is_on else None

    def _admit_compiled(self) -> list[Output]:
        """Queue the requests whose grammars are ready; the outputs tell of those that are refused."""
        outputs: list[Output] = []
        is_busy = self.scheduler.has_work and not self._holds_back
        for arrival, outcome in self._intake.ready(0.0 if is_busy else COMPILE_WAIT_S):
            try:
                if isinstance(outcome, EngineError):
                    raise outcome
                self._structure.attach(self.scheduler.add(arrival.request, arrival.seed, self._clock()), outcome)
            except EngineError as error:
                outputs += refused(arrival, error)
            for index in arrival.aborted:
                self.scheduler.abort(arrival.request.request_id, index)
        return outputs

    def _load_vocabulary(self) -> Vocabulary:
        config = self._model_config
        return Vocabulary(Tokenizer.load(self._checkpoint), config.vocab_size, config.eos_token_ids)

    @property
    def _holds_back(self) -> bool:
        """Whether there is only background work to compute, while somebody else waits for a grammar."""
        return self._intake.is_awaited and self.scheduler.has_work and self.scheduler.is_idle

    def _interruption(self, step: Step) -> Interruption | None:
        """What a step in the background looks at; nothing ends the others."""
        if self._bell is None or not step.is_background or self._crew is not None:
            return None
        return Interruption(self._bell, self._heard)

    def _leave(self, step: Step) -> None:
        """Nothing of the step counts: what it was to compute is computed another time."""
        self._counters.interrupted_steps += 1
        for item in step.scheduled:
            item.sequence.drafts = []
        self._sweep_adapters()

    def _fail(self, step: Step, error: Exception) -> list[Output]:
        log.exception("a step of %d tokens failed", step.num_tokens)
        self._counters.failed_steps += 1
        limit, cache = self.scheduler.config.max_step_tokens, self.cache
        on_gpu = self.model.device.type != "cpu"
        advice = step_advice(error, kv_bytes=cache.nbytes, max_step_tokens=limit) if on_gpu else ""
        outputs = self.scheduler.fail(step, f"the engine failed while computing this request: {error}{advice}")
        self._sweep_adapters()
        return outputs

    def _sweep_adapters(self) -> None:
        if self.adapters.has_retired:
            self.adapters.sweep(self.scheduler.adapters_in_use() | self._intake.adapters_in_use())

    def _count(self, step: Step, elapsed_s: float) -> None:
        self._work.add(step.num_tokens, elapsed_s, self._runner.read_bytes(step), self._operations.of(step))
        self._decoded_s = elapsed_s if step.num_tokens == len(step.scheduled) else None
        if self._onlooker.is_on:
            self._onlooker.note(step, elapsed_s)


def _scheduler_config(
    config: EngineConfig, plan: KVPlan, model_config: ModelConfig, limits: StepLimits
) -> SchedulerConfig:
    return SchedulerConfig(
        num_blocks=plan.num_blocks,
        block_size=plan.block_size,
        max_model_len=plan.max_model_len,
        max_running=limits.max_running,
        max_step_tokens=limits.max_step_tokens,
        max_waiting_requests=config.max_waiting_requests,
        max_waiting_tokens=config.max_waiting_tokens,
        enable_prefix_cache=config.prefix_cache,
        eos_token_ids=model_config.eos_token_ids,
        vocab_size=model_config.vocab_size,
        model_id=str(config.model),
    )
