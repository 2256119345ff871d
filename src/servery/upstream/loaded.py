"""What is known of a model once it is in memory, and what a request may ask of it by that."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from servery.engine.chat_template import ChatTemplate
from servery.engine.constraint import Constraint
from servery.engine.parsing.format import MessageFormats, find_formats
from servery.engine.request import SamplingParams
from servery.engine.stats import EngineInfo
from servery.engine.tokenizer import Tokenizer
from servery.upstream.completion_answer import Prompt
from servery.upstream.prompt import PromptEncoder, check_fits
from servery.upstream.sampling import SamplingDefaults, read_defaults, sampling_params
from servery.wire.chat import ChatRequest
from servery.wire.completions import CompletionRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class TextParts:
    """What a checkpoint has to read and write texts by."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    defaults: SamplingDefaults

    @classmethod
    async def of(cls, checkpoint: Path) -> "TextParts":
        """Those in a folder, or in a file; raises `LoadError`."""
        return await asyncio.to_thread(cls._read, checkpoint)

    @classmethod
    def _read(cls, checkpoint: Path) -> "TextParts":
        return cls(
            tokenizer=Tokenizer.load(checkpoint),
            template=ChatTemplate.load(checkpoint),
            defaults=read_defaults(checkpoint),
        )

    def with_engine(self, name: str, info: EngineInfo, tool_format: str, reasoning_format: str) -> "Loaded":
        """The whole of model `name`, whose formats are found or named."""
        sources = () if self.template is None else self.template.sources.values()
        formats = find_formats(sources, tool_format, reasoning_format)
        marked = [self.tokenizer.token_id(marker) for marker in formats.markers]
        return Loaded(
            info=info,
            encoder=PromptEncoder(name, self.tokenizer, self.template, info.vocab_size),
            defaults=self.defaults,
            formats=formats,
            shown=frozenset(token_id for token_id in marked if token_id is not None),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model that is there; `shown` are the special tokens that its formats need to see."""

    info: EngineInfo
    encoder: PromptEncoder
    defaults: SamplingDefaults
    formats: MessageFormats
    shown: frozenset[int]

    def most_tokens(self, request: ChatRequest, prompt_tokens: int) -> int | None:
        """What the engine is told; raises `ApiError` where it does not fit into the context and must."""
        limit, asked = self.info.max_model_len, request.token_limit
        check_fits(prompt_tokens, None if request.is_cut_to_fit else asked, limit, "messages")
        return asked if asked is None else min(asked, limit - prompt_tokens)

    async def prompt(self, prompt: str | list[int], param: str, request: CompletionRequest) -> Prompt:
        """One prompt of a completion; raises `ApiError` where it does not fit into the context."""
        adds = request.add_special_tokens is not False
        token_ids = await self.encoder.text(prompt, param, add_special_tokens=adds)
        check_fits(len(token_ids), request.max_tokens, self.info.max_model_len, param)
        if isinstance(prompt, str):
            return Prompt(prompt, token_ids)
        return Prompt(self.encoder.tokenizer.decode(token_ids) if request.echo else "", token_ids)

    def completion_params(
        self, request: CompletionRequest, prompt: Prompt, constraint: Constraint | None
    ) -> SamplingParams:
        """How the engine samples one prompt's completions."""
        room = self.info.max_model_len - len(prompt.token_ids)
        wanted = min(request.default_max_tokens, room) if request.max_tokens is None else request.max_tokens
        return sampling_params(
            request,
            self.defaults,
            max_tokens=max(1, wanted),  # nothing less can be asked of it; `CompletionAnswer` drops what is too much
            logprobs=request.logprobs,
            prompt_logprobs=request.logprobs if request.echo else None,
            vocab_size=self.info.vocab_size,
            constraint=constraint,
        )
