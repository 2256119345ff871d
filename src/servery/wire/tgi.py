"""`POST /generate`, `/generate_stream`, `/` and `GET /info`, in the form that TGI gave them."""

from collections.abc import Mapping
from typing import Any

import msgspec

from servery.wire import sse
from servery.wire.body import decode
from servery.wire.completions import CompletionRequest
from servery.wire.dialect import Dialect
from servery.wire.errors import ApiError, invalid, renamed, unsupported
from servery.wire.vllm import check_neutral

DEFAULT_MAX_NEW_TOKENS = 100
MAX_TOP_TOKENS = 20
_PARAMETERS = "parameters"
# By parameter: the values that ask for nothing, and why others are refused.
_NEUTRAL: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "best_of": ((1,), "only 1 is; ask again for more."),
    "typical_p": ((1,), "there is no typical sampling; 'top_p' and 'top_k' are there."),
    "truncate": ((), "a prompt is never cut; one that is too long is refused."),
    "watermark": ((False,), "answers are not marked."),
}
# What the request is called where it is answered, and how its client calls it.
_NAMES = {
    "prompt": "inputs",
    "max_tokens": "parameters.max_new_tokens",
    "guided_json": "parameters.grammar.value",
    "guided_regex": "parameters.grammar.value",
    **{
        name: f"parameters.{name}"
        for name in ("temperature", "top_k", "top_p", "repetition_penalty", "frequency_penalty", "seed", "stop")
    },
}


class JsonGrammar(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json"):
    """The answer is JSON that a schema allows, which is an object or its text."""

    value: dict[str, Any] | str


class JsonObjectGrammar(JsonGrammar, frozen=True, tag="json_object"):
    """Another name for the same."""


class NamedGrammar(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A schema and how it is called, which changes nothing."""

    schema: dict[str, Any]
    name: str | None = None


class JsonSchemaGrammar(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    """The same for a schema that has a name."""

    value: NamedGrammar


class RegexGrammar(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="regex"):
    """The answer is what a regular expression matches."""

    value: str


Grammar = JsonGrammar | JsonObjectGrammar | JsonSchemaGrammar | RegexGrammar


class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to generate; null means "not given"."""

    max_new_tokens: int | None = None
    temperature: float | None = None
    do_sample: bool | None = None
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: list[str] | None = None
    details: bool | None = None
    decoder_input_details: bool | None = None
    top_n_tokens: int | None = None
    return_full_text: bool | None = None
    best_of: int | None = None
    truncate: int | None = None
    watermark: bool | None = None
    grammar: Grammar | None = None
    adapter_id: str | None = None

    @property
    def is_sampled(self) -> bool:
        """Whether tokens are drawn: if that is said, or any parameter that means nothing otherwise is given."""
        is_warped = self.temperature not in (None, 1) or self.top_k not in (None, 0) or self.top_p not in (None, 1)
        return bool(self.do_sample) or is_warped

    @property
    def signed_seed(self) -> int | None:
        """The seed as 64 bits with a sign; TGI's have none."""
        return self.seed if self.seed is None or not 2**63 <= self.seed < 2**64 else self.seed - 2**64

    def check(self) -> None:
        """Raise `ApiError` for what no type can express and for what this server cannot do."""
        try:
            check_neutral(self, _NEUTRAL)
        except ApiError as error:
            raise unsupported(f"{_PARAMETERS}.{error.param}", _NEUTRAL[error.param or ""][1]) from None
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise _invalid("max_new_tokens", f"is {self.max_new_tokens}; it must be at least 1.")
        if self.temperature is not None and self.temperature <= 0:
            raise _invalid("temperature", f"is {self.temperature:g}; it must be greater than 0 ('do_sample': false).")
        if self.top_n_tokens is not None and not 0 <= self.top_n_tokens <= MAX_TOP_TOKENS:
            raise _invalid("top_n_tokens", f"is {self.top_n_tokens}; it must be between 0 and {MAX_TOP_TOKENS}.")
        if self.decoder_input_details and not self.details:
            raise _invalid("decoder_input_details", "is shown with the details; set 'parameters.details'.")


def _invalid(name: str, rule: str) -> ApiError:
    return invalid(f"'{_PARAMETERS}.{name}' {rule}", f"{_PARAMETERS}.{name}")


class TgiCompletion(CompletionRequest, frozen=True, kw_only=True):
    """What TGI's clients ask for, as a completion."""

    @property
    def default_max_tokens(self) -> int:
        """The most tokens to generate where the client gives no limit."""
        return DEFAULT_MAX_NEW_TOKENS


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A text to be continued. TGI serves one model: where there are more, `model` says which."""

    inputs: str
    parameters: Parameters = Parameters()
    stream: bool | None = None
    model: str | None = None

    @property
    def shows_tokens(self) -> bool:
        """Whether the client is told of each token."""
        return bool(self.stream or self.parameters.details)

    def completion(self, model: str) -> TgiCompletion:
        """The same, as a completion of `model`; `echo` asks for the log probabilities of the prompt."""
        given, grammar = self.parameters, self.parameters.grammar
        return TgiCompletion(
            model=model,
            prompt=self.inputs,
            stream=self.stream,
            max_tokens=given.max_new_tokens,
            temperature=(given.temperature or 1.0) if given.is_sampled else 0.0,
            top_k=given.top_k or 0,
            top_p=1.0 if given.top_p is None else given.top_p,
            min_p=0.0,
            repetition_penalty=1.0 if given.repetition_penalty is None else given.repetition_penalty,
            frequency_penalty=given.frequency_penalty,
            seed=given.signed_seed,
            stop=given.stop,
            include_stop_str_in_output=True,
            logprobs=(given.top_n_tokens or 0) if self.shows_tokens else None,
            echo=given.decoder_input_details,
            guided_regex=grammar.value if isinstance(grammar, RegexGrammar) else None,
            guided_json=_schema(grammar),
        )

    def check(self) -> None:
        """Raise `ApiError` for what no type can express and for what this server cannot do."""
        self.parameters.check()
        if self.stream and self.parameters.decoder_input_details:
            raise _invalid("decoder_input_details", "is not shown in a stream.")
        if not self.inputs:
            raise invalid("'inputs' is empty; at least one character is needed.", "inputs")


def _schema(grammar: Grammar | None) -> dict[str, Any] | str | None:
    if isinstance(grammar, JsonSchemaGrammar):
        return grammar.value.schema
    return grammar.value if isinstance(grammar, JsonGrammar) else None


_DECODER = msgspec.json.Decoder(GenerateRequest)


def decode_generate(body: bytes) -> GenerateRequest:
    """A checked request; raises `ApiError`."""
    request = decode(body, _DECODER)
    request.check()
    return request


class Token(msgspec.Struct, frozen=True):
    """A token that was generated; `text` is what became certain with it."""

    id: int
    text: str
    logprob: float
    special: bool


class PrefillToken(msgspec.Struct, frozen=True):
    """A token of the prompt; the first has no log probability."""

    id: int
    text: str
    logprob: float | None


class Details(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an answer came about: `input_length` is told in streams, the tokens in whole answers.

    `finish_reason` is "length", "eos_token" or "stop_sequence".
    """

    finish_reason: str
    generated_tokens: int
    seed: int | msgspec.UnsetType | None = msgspec.UNSET
    input_length: int | msgspec.UnsetType = msgspec.UNSET
    prefill: list[PrefillToken] | msgspec.UnsetType = msgspec.UNSET
    tokens: list[Token] | msgspec.UnsetType = msgspec.UNSET
    top_tokens: list[list[Token]] | msgspec.UnsetType = msgspec.UNSET


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    token: Token
    top_tokens: list[Token] | msgspec.UnsetType = msgspec.UNSET
    generated_text: str | None = None
    details: Details | None = None


class _Generated(msgspec.Struct, frozen=True):
    generated_text: str
    details: Details | msgspec.UnsetType = msgspec.UNSET


def token_event(
    index: int,
    token: Token,
    top_tokens: list[Token] | None = None,
    generated_text: str | None = None,
    details: Details | None = None,
) -> bytes:
    """The event of token `index`, from 1; that of the last has the text, and the details if they are wanted."""
    top = msgspec.UNSET if top_tokens is None else top_tokens
    event = _Event(index=index, token=token, top_tokens=top, generated_text=generated_text, details=details)
    return sse.event(msgspec.json.encode(event))


def encode_generated(text: str, details: Details | None, *, as_list: bool) -> bytes:
    """The body of an answer that is not streamed; at `/` it is a list of one."""
    body = _Generated(text, msgspec.UNSET if details is None else details)
    return msgspec.json.encode([body] if as_list else body)


def encode_info(model: str, version: str, max_model_len: int | None, max_concurrent_requests: int | None) -> bytes:
    """The body of the answer to `/info`; None for what is not known."""
    return msgspec.json.encode(
        {
            "model_id": model, "model_sha": None, "model_pipeline_tag": "text-generation",
            "max_concurrent_requests": max_concurrent_requests, "max_best_of": 1, "max_stop_sequences": 16,
            "max_input_tokens": None if max_model_len is None else max_model_len - 1, "max_total_tokens": max_model_len,
            "validation_workers": 1, "max_client_batch_size": 1, "router": "servery", "version": version, "sha": None,
            "docker_label": None,
        }
    )  # fmt: skip


def _kind(status: int) -> str:
    if status in (429, 503):
        return "overloaded"
    return "validation" if status < 500 else "generation"


def _error(error: ApiError, request_id: str) -> bytes:
    told = renamed(error, _NAMES)
    return msgspec.json.encode({"error": told.message, "error_type": _kind(told.status)})


def _error_event(error: ApiError, request_id: str) -> bytes:
    return sse.event(_error(error, request_id))


TGI = Dialect(error=_error, error_event=_error_event, keep_alive=sse.KEEP_ALIVE, done=b"", statuses={400: 422})
