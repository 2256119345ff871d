"""The parameters that chat and legacy completions share."""

from typing import Any

import msgspec

from servery.wire.errors import invalid, unsupported
from servery.wire.structure import ResponseFormat, StructuredOutputs, Wanted, wanted_structure
from servery.wire.vllm import VllmFields

# Parameters of the API that only annotate a request; they are accepted and change nothing:
# user, safety_identifier, prompt_cache_key, metadata.


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`include_usage` asks for a last chunk with the usage; obfuscation (random padding) cannot be asked for."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Generation(VllmFields, frozen=True, kw_only=True):
    """How to sample and when to stop; null means "not given" everywhere, as in OpenAI's API.

    Beyond OpenAI's parameters: top_k (0 or -1: off), min_p, repetition_penalty, stop_token_ids, ignore_eos;
    structured_outputs and, as older clients of vLLM write it, guided_json, guided_regex, guided_choice, guided_grammar; and `VllmFields`.
    """

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    debug: bool | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, Any] | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that has the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def wanted_structure(self) -> Wanted | None:
        """What the answer must look like; None if it is free."""
        return wanted_structure(self)

    def check(self) -> None:
        """Raise `ApiError` for what no type can express."""
        super().check()
        if self.debug and self.stream and not self.include_usage:
            raise invalid("'debug' in a stream is told with the usage; set 'stream_options.include_usage'.", "debug")
        wanted_structure(self)
        if self.stream_options is None:
            return
        if not self.stream:
            raise invalid("'stream_options' is only allowed when 'stream' is true.", "stream_options")
        if self.stream_options.include_obfuscation:
            raise unsupported("stream_options.include_obfuscation", "chunks are never padded.")


def check_unsupported(request: msgspec.Struct, reasons: dict[str, str]) -> None:
    """Raise `ApiError` for the first field of `reasons` that the client has set."""
    for name, why in reasons.items():
        if getattr(request, name) is not None:
            raise unsupported(name, why)
