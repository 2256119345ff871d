"""`LLM`: the engine without a server, for offline use.

llm = LLM("path/to/checkpoint")
answers = llm.chat([[{"role": "user", "content": "What is 17 + 25?"}]])
"""

import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from servery.engine.adapter_source import AdapterInfo, AdapterSource
from servery.engine.chat_template import ChatTemplate, no_chat_template
from servery.engine.completion import TextAssembly, TextDelta
from servery.engine.config import EngineConfig
from servery.engine.core import EngineCore
from servery.engine.errors import InvalidRequest, LoadError, Overloaded, RequestFailed, UnknownAdapter
from servery.engine.loading_bar import LoadingBar
from servery.engine.request import FinishReason, NewRequest, Output, SamplingParams, TokenLogprobs
from servery.engine.tokenizer import Tokenizer

Message = Mapping[str, Any]
T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Completion:
    """One finished answer. `token_ids` and `logprobs` belong to `text`; the end token counts in `num_tokens` only."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    num_tokens: int = 0
    finish_reason: FinishReason = FinishReason.STOP
    stop: str | int | None = None


@dataclass(slots=True, kw_only=True)
class Generation:
    """The answers to one prompt: `SamplingParams.n` completions."""

    prompt: list[int]
    completions: list[Completion]
    cached_tokens: int = 0
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text of the first completion."""
        return self.completions[0].text


class LLM:
    """A model in this process. Batches of any size are computed together, as many at a time as fit.

    `adapters` are LoRA adapters by name, folders in PEFT's layout; `settings` the other fields of `EngineConfig`. Raises
    `LoadError` if the model or an adapter cannot be loaded.
    """

    def __init__(self, model: str | Path, *, adapters: Mapping[str, str | Path] | None = None, **settings: Any) -> None:
        sources = tuple(AdapterSource(name, Path(path)) for name, path in (adapters or {}).items())
        if settings.get("calibration") is not None:
            settings["calibration"] = Path(settings["calibration"])
        config = EngineConfig(model=Path(model), adapters=sources, **settings)
        self.tokenizer = Tokenizer.load(config.model)
        self.chat_template = ChatTemplate.load(config.model)
        with LoadingBar(f"loading {config.model.name}") as progress:
            self.core = EngineCore(config, progress=progress)
        self._adapter_ids: dict[str, int] = {}
        self._next_adapter_id = 1
        for source in config.adapters:
            self.load_adapter(source.name, source.path)

    def generate(
        self,
        prompts: Iterable[str | Sequence[int]],
        params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        progress: bool | None = None,
    ) -> list[Generation]:
        """Complete each prompt, a text or token ids; the answers are in the order of the prompts.

        `adapter` names the LoRA adapter to answer with; without it the model answers as it is.
        A progress bar is shown on a terminal unless `progress` says otherwise. Raises `InvalidRequest` or
        `PromptTooLong` for the first prompt that cannot be served, before anything is computed.
        """
        encoded = [self._encoded(prompt, number) for number, prompt in enumerate(_several(prompts, "generate([text])"))]
        return self._run(encoded, params or SamplingParams(), adapter, progress)

    def chat(
        self,
        conversations: Iterable[Sequence[Message]],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        adapter: str | None = None,
        progress: bool | None = None,
    ) -> list[Generation]:
        """Answer each conversation, a list of `{"role": ..., "content": ...}`; otherwise as `generate`."""
        template = self.chat_template
        if template is None:
            raise no_chat_template(str(self.core.info.architecture))
        several = _several(conversations, "chat([messages])")
        encoded = [template.encode(self.tokenizer, messages, tools) for messages in several]
        return self._run(encoded, params or SamplingParams(), adapter, progress)

    def close(self) -> None:
        """End the other processes of a model that several compute. Safe to call twice."""
        self.core.close()

    def load_adapter(self, name: str, path: str | Path) -> AdapterInfo:
        """Load a LoRA adapter to be asked for by `name`; raises `LoadError`. `max_loras` says how many there may be."""
        if name in self._adapter_ids:
            raise LoadError(f"an adapter named {name!r} is loaded already; unload it first, or take another name.")
        adapter_id, self._next_adapter_id = self._next_adapter_id, self._next_adapter_id + 1
        info = self.core.load_adapter(adapter_id, AdapterSource(name, Path(path)))
        self._adapter_ids[name] = adapter_id
        return info

    def unload_adapter(self, name: str) -> None:
        """Free the memory of an adapter; raises `UnknownAdapter`."""
        self.core.unload_adapter(self._adapter_id(name))
        del self._adapter_ids[name]

    def _adapter_id(self, name: str | None) -> int:
        if name is None:
            return 0
        if name not in self._adapter_ids:
            known = ", ".join(map(repr, sorted(self._adapter_ids))) or "none"
            raise UnknownAdapter(f"no adapter named {name!r} is loaded; loaded are: {known}.", "adapter")
        return self._adapter_ids[name]

    def _encoded(self, prompt: object, number: int) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        if isinstance(prompt, Sequence) and all(type(token_id) is int for token_id in prompt):
            return list(prompt)
        raise InvalidRequest(f"prompts[{number}] is neither a text nor a list of token ids.", "prompts")

    def _run(
        self, prompts: list[list[int]], params: SamplingParams, adapter: str | None, progress: bool | None
    ) -> list[Generation]:
        run = _Run(self.core, self.tokenizer, prompts, params, self._adapter_id(adapter))
        is_shown = sys.stderr.isatty() if progress is None else progress
        try:
            with _bar(is_shown) as bar:
                task = bar.add_task("generate", total=len(prompts))
                while not run.is_finished:
                    bar.update(task, completed=run.step())
        finally:
            run.abort()
        return run.generations


class _Run:
    """One call: feeds the core as its queue has room and collects the answers."""

    def __init__(
        self,
        core: EngineCore,
        tokenizer: Tokenizer,
        prompts: list[list[int]],
        params: SamplingParams,
        adapter: int,
    ) -> None:
        self._core = core
        run_id = secrets.token_hex(4)
        self._requests = [
            NewRequest(request_id=f"{run_id}-{number}", prompt=prompt, params=params, adapter=adapter)
            for number, prompt in enumerate(prompts)
        ]
        for request in self._requests:
            core.check(request)
        self.generations = [
            Generation(prompt=prompt, completions=[Completion() for _ in range(params.n)]) for prompt in prompts
        ]
        self._tokenizer = tokenizer
        self._added = 0
        self._under_way: dict[str, tuple[int, TextAssembly]] = {}

    @property
    def is_finished(self) -> bool:
        """Whether every prompt is answered."""
        return self._added == len(self._requests) and not self._under_way

    def step(self) -> int:
        """Run one step of the core; returns how many prompts are answered."""
        self._add_what_fits()
        for output in self._core.step():
            self._take(output)
        return self._added - len(self._under_way)

    def abort(self) -> None:
        """Leave nothing of this call in the core."""
        for request_id in self._under_way:
            self._core.abort(request_id)
        self._under_way.clear()

    def _add_what_fits(self) -> None:
        while self._added < len(self._requests):
            request = self._requests[self._added]
            seed = request.params.seed
            try:
                self._core.add(request, secrets.randbits(63) if seed is None else seed)
            except Overloaded:
                if not self._under_way:
                    raise
                return  # the queue is full: it will have room again
            self._under_way[request.request_id] = (
                self._added,
                TextAssembly(request, self._tokenizer, self._core.abort),
            )
            self._added += 1

    def _take(self, output: Output) -> None:
        under_way = self._under_way.get(output.request_id)
        if under_way is None:
            return
        if output.finish_reason is FinishReason.ERROR:
            if output.invalid_param is not None:
                raise InvalidRequest(output.error or "the request is not valid.", output.invalid_param)
            raise RequestFailed(output.error or "the engine failed while computing this request.")
        number, assembly = under_way
        delta = assembly.feed(output)
        if delta is not None:
            _extend(self.generations[number], delta)
        if assembly.is_finished:
            del self._under_way[output.request_id]


def _several(prompts: Iterable[T], call: str) -> list[T]:
    """`prompts` as a list; a single one, which Python would take for many, is refused."""
    if isinstance(prompts, str | Mapping):
        raise InvalidRequest(f"this is one prompt where several are expected; put it into a list: {call}.", "prompts")
    listed = list(prompts)
    if listed and isinstance(listed[0], int | Mapping):
        raise InvalidRequest(f"this is one prompt where several are expected; put it into a list: {call}.", "prompts")
    return listed


def _extend(generation: Generation, delta: TextDelta) -> None:
    completion = generation.completions[delta.index]
    completion.text += delta.text
    completion.token_ids += delta.token_ids
    completion.logprobs += delta.logprobs
    completion.num_tokens += delta.num_tokens
    if delta.finish_reason is not None:
        completion.finish_reason, completion.stop = delta.finish_reason, delta.stop
    generation.prompt_logprobs += delta.prompt_logprobs
    if delta.index == 0:
        generation.cached_tokens = delta.cached_tokens


def _bar(is_shown: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not is_shown,
    )
