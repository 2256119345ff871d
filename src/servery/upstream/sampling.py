"""From the API's sampling parameters to the engine's."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

import msgspec

from servery.engine.constraint import Constraint
from servery.engine.errors import InvalidRequest, LoadError
from servery.engine.gguf.files import find_gguf
from servery.engine.gguf.text import gguf_sampling
from servery.engine.json_fields import read_optional_json
from servery.engine.request import SamplingParams
from servery.upstream.engine_errors import engine_errors
from servery.wire.errors import invalid
from servery.wire.sampling import Generation

_SAME_NAME = (
    "n", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias",
    "seed", "ignore_eos", "min_tokens", "include_stop_str_in_output",
)  # fmt: skip


_DEFAULTED = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")

SamplingDefaults: TypeAlias = Mapping[str, float]


def sampling_params(
    request: Generation,
    defaults: SamplingDefaults,
    *,
    max_tokens: int | None,
    logprobs: int | None,
    prompt_logprobs: int | None = None,
    vocab_size: int,
    constraint: Constraint | None = None,
) -> SamplingParams:
    """The engine's parameters, the model's `defaults` where the client gave none; raises `ApiError` naming the wrong."""
    given = {**defaults, **{name: value for name in _SAME_NAME if (value := getattr(request, name)) is not None}}
    if request.top_k == -1:
        given["top_k"] = 0
    check_token_ids(request.logit_bias or (), "logit_bias", vocab_size)
    check_token_ids(request.stop_token_ids or (), "stop_token_ids", vocab_size)
    check_token_ids(request.allowed_token_ids or (), "allowed_token_ids", vocab_size)
    with engine_errors():
        return SamplingParams(
            **given,
            max_tokens=max_tokens,
            stop=request.stops,
            stop_token_ids=tuple(request.stop_token_ids or ()),
            allowed_token_ids=tuple(request.allowed_token_ids or ()),
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            constraint=constraint,
        )


def read_defaults(checkpoint: Path) -> SamplingDefaults:
    """How the model's makers sample from it (generation_config.json, or the GGUF file's own metadata).

    `do_sample: false` means greedily.

    Raises `LoadError` for a value that no request could be served with.
    """
    file = find_gguf(checkpoint)
    path = file or checkpoint / "generation_config.json"
    config = read_optional_json(path) if file is None else gguf_sampling(file)
    found = {name: config[name] for name in _DEFAULTED if config.get(name) is not None}
    if config.get("do_sample") is False:
        found = {"temperature": 0.0, **{name: value for name, value in found.items() if name == "repetition_penalty"}}
    if found.get("top_k") == -1:
        found["top_k"] = 0
    try:
        params = msgspec.convert(found, SamplingParams)
    except (msgspec.ValidationError, InvalidRequest) as error:
        raise LoadError(f"{path}: {error}") from error
    return {name: getattr(params, name) for name in found}


def check_token_ids(token_ids: Iterable[int], param: str, vocab_size: int) -> None:
    """Raise `ApiError` for an id that the model does not have."""
    for token_id in token_ids:
        if not 0 <= token_id < vocab_size:
            message = f"'{param}' has the token id {token_id}; this model's ids are 0 to {vocab_size - 1}."
            raise invalid(message, param)


def check_max_tokens(max_tokens: int | None, param: str, least: int = 1) -> None:
    """Raise `ApiError`, with the client's name for it, for a limit that nothing can be generated under."""
    if max_tokens is not None and max_tokens < least:
        raise invalid(f"'{param}' is {max_tokens}; it must be at least {least}.", param)
