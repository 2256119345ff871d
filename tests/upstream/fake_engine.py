"""An engine that plays outputs by a script, over a real tokenizer: bytes are tokens 0 to 255, `<end>` is 256."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, TypeAlias, cast

import msgspec
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from servery.engine.adapter_source import AdapterInfo, AdapterSource
from servery.engine.config import EngineConfig
from servery.engine.engine import AsyncEngine
from servery.engine.engine_state import EngineState
from servery.engine.errors import LoadError
from servery.engine.lora.registry import AdapterRegistry
from servery.engine.request import FinishReason, NewRequest, Output, TokenLogprobs
from servery.engine.stats import EngineInfo, EngineLife, EngineStats
from servery.upstream.ask import Api, Ask, Head, ModelRequest
from servery.upstream.embedded import EmbeddedUpstream
from servery.upstream.upstream import Call
from servery.wire.chat import ChatRequest
from servery.wire.completions import CompletionRequest
from servery.wire.embeddings import EmbeddingRequest
from servery.wire.rerank import RerankRequest

END = 256
VOCAB = 260
MAX_MODEL_LEN = 100
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
    "{% if tools %}[{{ tools | length }} tools]{% endif %}"
    "{% if mood %}[{{ mood }}]{% endif %}{% if add_generation_prompt %}<assistant>{% endif %}"
)

Step: TypeAlias = Output | Exception | asyncio.Event


def save_checkpoint(folder: Path, *, template: str | None = TEMPLATE, **generation: Any) -> Path:
    """Write what is read of a checkpoint besides its weights; `generation` is generation_config.json."""
    alphabet = _byte_alphabet()
    vocab = {alphabet[byte]: byte for byte in range(256)} | {"<end>": END}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<end>"} | ({"chat_template": template} if template else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's printable character for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(others)}


class FakeEngine:
    """Plays `script` for every request, or what `scripts` has for a prompt; outputs are addressed to the request."""

    def __init__(self, checkpoint: Path, *script: Step) -> None:
        self.config = EngineConfig(model=checkpoint)
        self.unloaded: list[int] = []
        self.state = EngineState.LOADING
        self.script: tuple[Step, ...] = script
        self.scripts: dict[bytes, tuple[Step, ...]] = {}
        self.requests: list[NewRequest] = []
        self.aborted: list[tuple[str, int | None]] = []
        self.closed = 0
        self.stats: EngineStats | None = None
        self.adapters = AdapterRegistry(self.unloaded.append)
        self.age_s = 0.25
        self.restart_in_s = 0.0
        self._taken = asyncio.Event()

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(
            architecture="fake", vocab_size=VOCAB, hidden_size=4, parameters=1, dtype="float32", device="cpu",
            kernels="none", threads=1, max_model_len=MAX_MODEL_LEN, max_running=4, max_step_tokens=16, block_size=16,
            num_blocks=8, kv_dtype="float32", kv_bytes=1, kv_bytes_per_token=1, weight_bytes=1, load_s=0.0, pid=1,
        )  # fmt: skip

    @property
    def life(self) -> EngineLife:
        return EngineLife(failures={"died": 0, "hung": 0}, restarts=0)

    async def start(self, memory_bytes: int | None = None) -> None:
        self.state = EngineState.READY

    async def stop(self) -> None:
        self.state = EngineState.STOPPED

    async def load_adapter(self, source: AdapterSource) -> AdapterInfo:
        adapter_id, loaded = self.adapters.begin(source)
        if source.path.is_dir():
            info = AdapterInfo(adapter_id=adapter_id, name=source.name, rank=4, num_modules=1, nbytes=8)
            self.adapters.succeed(info)
        else:
            self.adapters.fail(adapter_id, LoadError(f"{source.path} is not a folder."))
        return await loaded

    def unload_adapter(self, name: str) -> int:
        return self.adapters.retire(name)

    def heartbeat_age_s(self) -> float:
        return self.age_s

    def abort(self, request_id: str, index: int | None = None) -> None:
        self.aborted.append((request_id, index))

    async def until_taken(self, count: int) -> None:
        """Wait until the engine has been given `count` requests."""
        while len(self.requests) < count:
            self._taken.clear()
            await self._taken.wait()

    async def generate(self, request: NewRequest) -> AsyncGenerator[Output, None]:
        self.requests.append(request)
        self._taken.set()
        try:
            for step in self.scripts.get(bytes(t for t in request.prompt if t < END), self.script):
                if isinstance(step, asyncio.Event):
                    await step.wait()
                elif isinstance(step, Exception):
                    raise step
                else:
                    step.request_id = request.request_id
                    yield step
        finally:
            self.closed += 1


class _TypedAsk(Ask, frozen=True, kw_only=True, eq=False):
    request: ModelRequest

    def typed(self) -> ModelRequest:
        return self.request


def asking(request: ModelRequest, call: Call) -> Ask:
    """What a client asks of the model `m` with a request that was decoded already; the answer has the call's id."""
    api = {CompletionRequest: Api.COMPLETIONS, EmbeddingRequest: Api.EMBEDDINGS, RerankRequest: Api.RERANK}
    options = request.stream_options if isinstance(request, ChatRequest) else None
    head = msgspec.convert(
        {"model": request.model, "stream_options": {"include_usage": options and options.include_usage}}, Head
    )
    return _TypedAsk(
        api=api.get(type(request), Api.CHAT), body=b"", head=head, model=request.model, base="m", answer_id=call.id,
        created=5, request=request,
    )  # fmt: skip


async def started(engine: FakeEngine) -> EmbeddedUpstream:
    """An upstream named `m` over `engine`."""
    upstream = EmbeddedUpstream("m", cast("AsyncEngine", engine))
    await upstream.start()
    return upstream


def out(text: str | bytes = "", *, index: int = 0, end: FinishReason | None = None, **fields: Any) -> Output:
    """An output of the tokens of `text`; one that ends with STOP has the end token too."""
    token_ids = list(text.encode() if isinstance(text, str) else text)
    if end is FinishReason.STOP:
        return Output(
            request_id="", index=index, token_ids=[*token_ids, END], finish_reason=end, stop_token_id=END, **fields
        )
    return Output(request_id="", index=index, token_ids=token_ids, finish_reason=end, **fields)


def logprob(char: str, value: float, *top: tuple[str, float]) -> TokenLogprobs:
    """Log probabilities at one position."""
    return TokenLogprobs(ord(char), value, [(ord(other), of) for other, of in top])
