"""The upstream that runs a model on this machine: an engine process, and the way from the API to it and back."""

import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from pathlib import Path

import msgspec

from servery.engine.adapter_source import AdapterSource
from servery.engine.completion import TextDelta, complete
from servery.engine.engine import AsyncEngine
from servery.engine.engine_state import EngineState
from servery.engine.errors import BadAdapterName, LoadError
from servery.engine.glimpse import Glimpse
from servery.engine.parsing.format import AUTO
from servery.engine.request import NewRequest, SamplingParams
from servery.engine.stats import EngineInfo, EngineLife, EngineStats
from servery.engine.structure.door import Door
from servery.upstream.ask import Api, Ask
from servery.upstream.chat_answer import ChatAnswer
from servery.upstream.chat_plan import ChatPlan
from servery.upstream.completion_answer import CompletionAnswer, PromptDelta
from servery.upstream.embedder import Embedder, Input
from servery.upstream.engine_errors import RESTART_S, engine_errors
from servery.upstream.generate_answer import GenerateAnswer
from servery.upstream.loaded import Loaded, TextParts
from servery.upstream.merge import merge
from servery.upstream.reasoning import template_variables
from servery.upstream.sampling import (
    check_max_tokens,
    check_token_ids,
    sampling_params,
)
from servery.upstream.structure import constraint_errors, constraint_for
from servery.upstream.upstream import Call, Chunk, Health
from servery.wire.chat import ChatRequest
from servery.wire.completions import CompletionRequest
from servery.wire.embeddings import EmbeddingRequest, encode_embeddings
from servery.wire.errors import invalid, shown, unavailable, unsupported
from servery.wire.message import AnswerForm
from servery.wire.models import Model
from servery.wire.rerank import RerankRequest, encode_ranking
from servery.wire.sampling import Generation
from servery.wire.texts import text_params
from servery.wire.tokenize import DetokenizeRequest, TokenizeRequest, encode_text, encode_tokens

# How many prompts or inputs of one request are with the engine at a time; the rest must not fill its queue.
_INPUTS_AT_A_TIME = 16
# How the engine samples where neither the client nor the model says.
_UNSAID = {"temperature": SamplingParams().temperature, "top_p": SamplingParams().top_p}
# After so long without a heartbeat no more requests are to be sent. Idle the engine gives one four times a second, and a
# step takes well under a second; while it is busy for longer than this, a new request would do better elsewhere anyway.
_MAX_READY_AGE_S = 5.0


class EmbeddedUpstream:
    """Serves `name` with `engine`; the tokenizer and the chat template come from the same checkpoint."""

    def __init__(
        self, name: str, engine: AsyncEngine, *, tool_format: str = AUTO, reasoning_format: str = AUTO
    ) -> None:
        """How the model writes tool calls and reasoning is found from its chat template, or named."""
        self.name = name
        self.engine = engine
        self._format_names = (tool_format, reasoning_format)
        self._created = int(time.time())
        self._loaded: Loaded | None = None
        self._door = Door()

    async def start(self, memory_bytes: int | None = None) -> None:
        """Load the model, which may take so much memory; raises `LoadError` with the reason when it cannot be."""
        parts = await TextParts.of(self.engine.config.model)
        await self.engine.start(memory_bytes)
        self._loaded = parts.with_engine(self.name, self.engine.info, *self._format_names)

    async def stop(self) -> None:
        """End the engine process; answers under way fail."""
        await self.engine.stop()

    async def sleep(self) -> int:
        """Give the memory back but keep the process; returns how many bytes. Raises `CannotSleep`, `EngineDead`."""
        return await self.engine.sleep()

    async def wake(self) -> None:
        """Undo `sleep`; raises `NotEnoughMemory`, and it sleeps on; `EngineDead`."""
        await self.engine.wake()

    @property
    def is_asleep(self) -> bool:
        """Whether there is a process that sleeps."""
        return self.engine.state is EngineState.ASLEEP

    @property
    def needed_bytes(self) -> int:
        """What it takes of the memory when it is awake; 0 before it was ever loaded."""
        return self.engine.needed_bytes

    @property
    def memory_bytes(self) -> int:
        """What it takes of the memory now."""
        return self.engine.memory_bytes

    def reason(self, error: Exception) -> str:
        """Why it could not be loaded, without where files lie on this machine."""
        return _without_folder(str(error), self.engine.config.model)

    def health(self) -> Health:
        """Ready when the engine is, lives, and its queue has room; while it loads or restarts it owes no heartbeat."""
        state = EngineState.LOADING if self._loaded is None else self.engine.state
        age_s = self.engine.heartbeat_age_s() if state is EngineState.READY else 0.0
        if age_s > _MAX_READY_AGE_S:
            return Health(False, f"its engine gave no sign of life for {age_s:.1f} s", age_s)
        if state is EngineState.READY and self._is_queue_full():
            return Health(False, "its queue is full", age_s)
        return Health(
            state is EngineState.READY,
            f"its engine is {state.value}",
            age_s,
            is_alive=state is not EngineState.RESTARTING,
        )

    def model(self) -> Model:
        """The model's description; its context is unknown until it is loaded."""
        limit = None if self._loaded is None else self._loaded.info.max_model_len
        return Model(id=self.name, created=self._created, max_model_len=limit, root=self.name)

    def adapters(self) -> Mapping[str, Model]:
        """The LoRA adapters that can be asked for; those being loaded while it runs are not among them."""
        base = self.model()
        return {
            name: msgspec.structs.replace(base, id=f"{self.name}:{name}", parent=self.name)
            for name in sorted(self._adapter_names())
        }

    def _adapter_names(self) -> Iterable[str]:
        """Before the model is loaded for the first time they are those that come with it."""
        if self._loaded is None:
            return (source.name for source in self.engine.config.adapters)
        return self.engine.adapters.loaded

    async def load_adapter(self, name: str, path: Path) -> None:
        """Let requests ask for the adapter in a folder; raises `ApiError`."""
        self._require_loaded()
        with engine_errors(None, self.engine):
            try:
                await self.engine.load_adapter(AdapterSource(name, path))
            except LoadError as error:
                fault = _without_folder(str(error), path).replace("max_loras", "--max-loras")  # as operators know it
                param = "lora_name" if isinstance(error, BadAdapterName) else "lora_path"
                raise invalid(f"The adapter '{shown(name)}' cannot be loaded: {fault}", param) from error

    def unload_adapter(self, name: str) -> int:
        """Let no further request ask for an adapter; returns how many are answered with it now. Raises `ApiError`."""
        with engine_errors("lora_name", self.engine):
            return self.engine.unload_adapter(name)

    def adapter_uses(self) -> Mapping[str, int]:
        """How many requests asked for each adapter that can be asked for."""
        return self.engine.adapters.uses

    def stats(self) -> EngineStats | None:
        """The engine's newest figures."""
        return self.engine.stats

    def look(self) -> Glimpse | None:
        """As the engine's."""
        return self.engine.look()

    def life(self) -> EngineLife:
        """How often the engine's process failed and was started again."""
        return self.engine.life

    def info(self) -> EngineInfo | None:
        """What was resolved when the model was loaded; None before."""
        return None if self._loaded is None else self._loaded.info

    async def answer(self, ask: Ask, call: Call) -> AsyncGenerator[Chunk, None]:
        """The answer; raises `ApiError`. Closing it aborts what the engine computes for it."""
        chunks = self._answer(ask, call) if ask.adapter is None else self._adapted(ask, ask.adapter, call)
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    async def _adapted(self, ask: Ask, adapter: str, call: Call) -> AsyncGenerator[Chunk, None]:
        """The answer with the adapter that the client names; it stays until the answer is over."""
        with engine_errors("model", self.engine), self.engine.adapters.use(adapter) as adapter_id:
            async with contextlib.aclosing(
                self._answer(ask, msgspec.structs.replace(call, adapter=adapter_id))
            ) as chunks:
                async for chunk in chunks:
                    yield chunk

    def _answer(self, ask: Ask, call: Call) -> AsyncGenerator[Chunk, None]:
        request = ask.typed()
        if isinstance(request, ChatRequest):
            form = call.form or ask.form()
            form.tell({**_UNSAID, **self._require_loaded().defaults})
            return self._chat(request, call, form)
        if isinstance(request, CompletionRequest):
            return self._completion(request, ask, call)
        if isinstance(request, RerankRequest):
            return self._ranking(request, ask, call)
        return self._embedding(request, call)

    async def tokenize(self, request: TokenizeRequest) -> bytes:
        """Tokens of a text, or of a chat as the model sees it; raises `ApiError`."""
        loaded = self._require_loaded()
        if request.messages is not None:
            token_ids = await loaded.encoder.chat(
                request.messages,
                request.tools or [],
                add_generation_prompt=request.add_generation_prompt,
                variables=request.chat_template_kwargs,
            )
        else:
            text = request.prompt or ""
            token_ids = await loaded.encoder.text(text, "prompt", add_special_tokens=request.add_special_tokens)
        token_strs = await loaded.encoder.token_texts(token_ids) if request.return_token_strs else None
        return encode_tokens(token_ids, loaded.info.max_model_len, token_strs)

    async def count(self, request: ChatRequest) -> int:
        """How many tokens the chat's prompt has; raises `ApiError`."""
        return len(await self._chat_prompt(request, self._require_loaded()))

    async def detokenize(self, request: DetokenizeRequest) -> bytes:
        """The text of tokens, special ones included; raises `ApiError`."""
        loaded = self._require_loaded()
        check_token_ids(request.tokens, "tokens", loaded.info.vocab_size)
        return encode_text(await loaded.encoder.decode(request.tokens))

    @property
    def _inputs_at_a_time(self) -> int:
        return min(_INPUTS_AT_A_TIME, self.engine.config.max_waiting_requests)

    def _is_queue_full(self) -> bool:
        stats, config = self.engine.stats, self.engine.config
        if stats is None:
            return False
        waiting, tokens = stats.scheduler.waiting_requests, stats.scheduler.waiting_tokens
        return waiting >= config.max_waiting_requests or tokens >= config.max_waiting_tokens

    async def _chat(self, request: ChatRequest, call: Call, form: AnswerForm) -> AsyncGenerator[Chunk, None]:
        loaded = self._require_loaded()
        check_max_tokens(request.token_limit, request.token_limit_param)
        prompt = await self._chat_prompt(request, loaded)
        max_tokens = loaded.most_tokens(request, len(prompt))
        plan = ChatPlan(request, loaded.formats, loaded.encoder.tokenizer, prompt)
        params = sampling_params(
            request,
            loaded.defaults,
            max_tokens=max_tokens,
            logprobs=(request.top_logprobs or 0) if request.logprobs else None,
            vocab_size=loaded.info.vocab_size,
            constraint=await plan.constraint(self._door),
        )
        answer = ChatAnswer(form, plan.writers(), len(prompt), is_debugged=bool(request.debug))
        deltas = self._complete(request, prompt, params, call, 0, shown=loaded.shown, is_over=answer.is_over)
        chunks = answer.stream(deltas) if request.stream else answer.whole(deltas)
        async with contextlib.aclosing(deltas), contextlib.aclosing(chunks):
            with constraint_errors(plan.param), engine_errors("messages", self.engine):
                async for chunk in chunks:
                    yield chunk

    async def _chat_prompt(self, request: ChatRequest, loaded: Loaded) -> list[int]:
        tools = request.tool_use
        if tools.shown and not tools.is_forced and not loaded.encoder.shows_tools:
            raise unsupported("tools", f"the chat template of '{self.name}' shows no tools to the model.")
        return await loaded.encoder.chat(
            request.messages,
            tools.shown,
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=bool(request.continue_final_message),
            variables=template_variables(request, loaded.encoder.template),
        )

    async def _completion(self, request: CompletionRequest, ask: Ask, call: Call) -> AsyncGenerator[Chunk, None]:
        loaded = self._require_loaded()
        check_max_tokens(request.max_tokens, "max_tokens", least=0 if request.echo else 1)
        params = text_params("prompt", len(request.prompts))
        prompts = [
            await loaded.prompt(text, param, request) for text, param in zip(request.prompts, params, strict=True)
        ]
        wanted = request.wanted_structure
        constraint = await constraint_for(wanted, self._door)
        param = None if wanted is None else wanted.param
        deltas = merge(
            [
                self._prompt_deltas(
                    request, at, prompt.token_ids, loaded.completion_params(request, prompt, constraint), call
                )
                for at, prompt in enumerate(prompts)
            ],
            self._inputs_at_a_time,
        )
        answer: CompletionAnswer | GenerateAnswer
        if ask.api is Api.GENERATE:
            answer = GenerateAnswer(ask, loaded.encoder.tokenizer, prompts[0])
        else:
            answer = CompletionAnswer(request, ask, loaded.encoder.tokenizer, prompts)
        chunks = answer.stream(deltas) if request.stream else answer.whole(deltas)
        async with contextlib.aclosing(deltas), contextlib.aclosing(chunks):
            with constraint_errors(param), engine_errors("prompt", self.engine):
                async for chunk in chunks:
                    yield chunk

    def _embedding(self, request: EmbeddingRequest, call: Call) -> AsyncGenerator[Chunk, None]:
        size = self._require_loaded().info.hidden_size
        if request.dimensions is not None and request.dimensions > size:
            raise invalid(f"'dimensions' is {request.dimensions}; this model's vectors have {size}.", "dimensions")
        params = text_params("input", len(request.inputs))
        inputs = [Input(text, param) for text, param in zip(request.inputs, params, strict=True)]

        def encode(vectors: list[list[float]], tokens: int) -> bytes:
            return encode_embeddings(request.model, vectors, tokens, request.encoding_format)

        return self._embedder.answer(inputs, call, encode, request.dimensions)

    def _ranking(self, request: RerankRequest, ask: Ask, call: Call) -> AsyncGenerator[Chunk, None]:
        documents = [Input(text, f"documents[{at}]") for at, text in enumerate(request.texts)]

        def encode(vectors: list[list[float]], tokens: int) -> bytes:
            return encode_ranking(ask.answer_id, request, vectors, tokens)

        return self._embedder.answer([Input(request.query, "query"), *documents], call, encode)

    @property
    def _embedder(self) -> Embedder:
        return Embedder(self.engine, self._require_loaded().encoder, self._inputs_at_a_time)

    async def _prompt_deltas(
        self, request: Generation, at: int, prompt: list[int], params: SamplingParams, call: Call
    ) -> AsyncGenerator[PromptDelta, None]:
        async with contextlib.aclosing(self._complete(request, prompt, params, call, at)) as deltas:
            async for delta in deltas:
                yield PromptDelta(at, delta)

    def _complete(
        self,
        request: Generation,
        prompt: list[int],
        params: SamplingParams,
        call: Call,
        at: int,
        *,
        shown: frozenset[int] = frozenset(),
        is_over: Callable[[int], bool] = lambda index: False,
    ) -> AsyncGenerator[TextDelta, None]:
        new = NewRequest(
            request_id=f"{call.id}-{at}",
            prompt=prompt,
            params=params,
            deadline=call.deadline,
            priority=call.priority,
            cache_salt=request.salt,
            adapter=call.adapter,
        )
        tokenizer = self._require_loaded().encoder.tokenizer
        skips = request.skips_special_tokens
        return complete(self.engine, new, tokenizer, skip_special_tokens=skips, shown=shown, is_over=is_over)

    def _require_loaded(self) -> Loaded:
        if self._loaded is None:
            raise unavailable(f"The model '{self.name}' is being loaded; try again in a moment.", RESTART_S)
        return self._loaded


def _without_folder(text: str, folder: Path) -> str:
    """`text` for clients: where folders lie on the server's disk is not for them."""
    return text.replace(f"{folder}/", "").replace(str(folder), folder.name)
