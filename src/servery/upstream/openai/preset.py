"""In what the servers that speak OpenAI's APIs differ, where a request has to be written for them anew."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from servery.config.types import Kind

_SAMPLING = frozenset(("top_k", "min_p", "repetition_penalty", "stop_token_ids", "ignore_eos"))
_TEMPLATE = frozenset(("chat_template_kwargs",))
_STRUCTURE = frozenset(("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar"))
_VLLM = frozenset(
    ("min_tokens", "allowed_token_ids", "include_stop_str_in_output", "skip_special_tokens", "cache_salt")
)


class Prefill(enum.Enum):
    """How a server is made to go on with a last message of the assistant's: by its fields, by itself, or not at all."""

    BY_FIELDS = "by fields"
    BY_ITSELF = "by itself"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One kind of server: `fields` are those beyond OpenAI's that it understands, `limit` its name for `max_tokens`.

    `knows_developers`: it has that role. `takes_reasoning`: what a model thought earlier may be sent back.
    """

    who: str
    fields: frozenset[str] = frozenset()
    limit: str = "max_tokens"
    prefill: Prefill = Prefill.NEVER
    knows_developers: bool = False
    takes_reasoning: bool = True


PRESETS: Mapping[Kind, Preset] = MappingProxyType(
    {
        Kind.OPENAI: Preset(
            who="OpenAI's API", limit="max_completion_tokens", knows_developers=True, takes_reasoning=False
        ),
        Kind.VLLM: Preset(
            who="vLLM",
            fields=_SAMPLING | _TEMPLATE | _STRUCTURE | _VLLM | {"thinking_token_budget", "add_generation_prompt"},
            prefill=Prefill.BY_FIELDS,
        ),
        Kind.SGLANG: Preset(who="SGLang", fields=_SAMPLING | _TEMPLATE, prefill=Prefill.BY_FIELDS),
        Kind.TGI: Preset(who="TGI", takes_reasoning=False),
        Kind.TENSORRT_LLM: Preset(who="TensorRT-LLM", fields=_SAMPLING | _TEMPLATE | {"add_generation_prompt"}),
        Kind.OLLAMA: Preset(who="Ollama", prefill=Prefill.BY_ITSELF),
        Kind.LLAMA_CPP: Preset(
            who="llama.cpp", fields=_TEMPLATE | {"top_k", "min_p", "ignore_eos"}, prefill=Prefill.BY_ITSELF
        ),
    }
)
