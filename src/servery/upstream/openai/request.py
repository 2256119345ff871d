"""A chat as a server of OpenAI's chat completions is asked for it, where the client speaks another API."""

from typing import Any

import msgspec

from servery.upstream.openai.preset import Prefill, Preset
from servery.upstream.refusal import cannot
from servery.wire.chat import AssistantMessage, ChatRequest, Message, TextPart
from servery.wire.images import ImagePart
from servery.wire.structure import JsonFormat, JsonObjectFormat, JsonSchemaFormat, NamedSchema, RegexFormat
from servery.wire.vllm import VllmFields

_Fields = dict[str, Any]
# Beyond OpenAI's own parameters: each goes along where it is understood, and is an error where it is not.
_EXTENSIONS = (
    "top_k", "min_p", "repetition_penalty", "stop_token_ids", "ignore_eos", "debug", "structured_outputs", "guided_json",
    "guided_regex", "guided_choice", "guided_grammar", "chat_template_kwargs", "thinking_token_budget",
    "add_generation_prompt", "continue_final_message", "include_reasoning", "chat_template", "documents", "add_special_tokens",
    "mm_processor_kwargs", "echo", "best_of", *VllmFields.__struct_fields__,
)  # fmt: skip
# What says how much to reason. Agents say it to every model, so one that cannot be told does as it does.
_REASONING = frozenset(("chat_template_kwargs", "thinking_token_budget"))
# An answer that is written here has its id and its reasoning written here.
_WRITTEN_HERE = (
    "model", "messages", "max_tokens", "max_completion_tokens", "stream_options", "request_id", "include_reasoning",
)  # fmt: skip
_NEUTRAL: _Fields = {
    "top_k": (0, -1), "min_p": (0,), "repetition_penalty": (1,), "skip_special_tokens": (True,), "length_penalty": (1,),
    "best_of": (1,), "guided_decoding_backend": ("auto",), "spaces_between_special_tokens": (True, False),
}  # fmt: skip


def chat_request(request: ChatRequest, model: str, preset: Preset) -> bytes:
    """The body that asks for the chat's answer by `model`; raises `UpstreamFailure` for what the server cannot do."""
    given = {name: value for name in request.__struct_fields__ if (value := getattr(request, name)) is not None}
    kept = {name: value for name, value in given.items() if _is_kept(name, value, request, preset)}
    fields: _Fields = {
        "model": model,
        "messages": [_message(message, preset) for message in request.messages],
        **{name: _plain(value) for name, value in kept.items()},
    }
    if isinstance(request.response_format, JsonFormat | RegexFormat | JsonObjectFormat | JsonSchemaFormat):
        fields["response_format"] = _response_format(request)
    if request.token_limit is not None:
        fields[preset.limit] = request.token_limit
    if request.stream:
        fields["stream_options"] = {"include_usage": True}
    return msgspec.json.encode({**fields, **_prefill(request, preset)})


def _response_format(request: ChatRequest) -> _Fields:
    """OpenAI's words for the form, also where the client has TGI's; raises `UpstreamFailure` where there are none."""
    wanted, asked = request.wanted_structure, request.response_format
    if wanted is None or wanted.kind == "regex":
        raise cannot("response_format", "of a regular expression it is told only in TGI's own API.")
    if wanted.kind == "json_object":
        return {"type": "json_object"}
    named = asked.named if isinstance(asked, JsonSchemaFormat) else NamedSchema("answer", wanted.value)
    return {"type": "json_schema", "json_schema": _plain(named)}


def _is_kept(name: str, value: Any, request: ChatRequest, preset: Preset) -> bool:
    if name == "continue_final_message" or name in _WRITTEN_HERE or value in _NEUTRAL.get(name, ()):
        return False
    if name not in _EXTENSIONS or name in preset.fields:
        return True
    if name in _REASONING and not request.insists_on_reasoning:
        return False
    if not value:
        return False
    raise cannot(name, f"{preset.who} has nothing like it.")


def _prefill(request: ChatRequest, preset: Preset) -> _Fields:
    """What makes the server go on with the last message, if that is wanted."""
    if not request.continue_final_message or preset.prefill is Prefill.BY_ITSELF:
        return {}
    if preset.prefill is Prefill.NEVER:
        raise cannot("messages", f"{preset.who} does not go on with a last message of the assistant's.")
    return {"continue_final_message": True, "add_generation_prompt": False}


def _message(message: Message, preset: Preset) -> _Fields:
    fields: _Fields = _plain(message)
    if isinstance(message.content, list) and len(message.content) == 1 and isinstance(message.content[0], TextPart):
        fields["content"] = message.content[0].text  # every server takes words in this form
    if fields["role"] == "developer" and not preset.knows_developers:
        fields["role"] = "system"
    if not preset.takes_reasoning:
        fields.pop("reasoning_content", None)
    if isinstance(message, AssistantMessage) and message.tool_calls:
        fields["tool_calls"] = [
            {"id": call.id, "type": "function", "function": _plain(call.function)} for call in message.tool_calls
        ]
    return fields


def _plain(value: Any) -> Any:
    """Structs as objects, without what is not given; what a client wrote as an object stays as it is, nulls and all."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, ImagePart):
        return {"type": "image_url", "image_url": _plain(value.image_url)}
    if not isinstance(value, msgspec.Struct):
        return value
    config = value.__struct_config__
    tag = {} if config.tag_field is None else {config.tag_field: config.tag}
    given = {name: getattr(value, name) for name in value.__struct_fields__}
    return tag | {name: _plain(each) for name, each in given.items() if each is not None}
