"""A chat as Anthropic's Messages API is asked for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from servery.upstream.claude import Abilities, abilities, effort, thinking
from servery.upstream.closed_schema import closed_schema
from servery.upstream.refusal import cannot
from servery.upstream.translatable import (
    Structure,
    check_translatable,
    structure,
)
from servery.upstream.turns import Block, CallMade, Image, Text, conversation
from servery.wire.chat import ChatRequest
from servery.wire.images import InlineImage
from servery.wire.tools import Tool

WHO = "Anthropic's API"
_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_COUNTED = ("model", "messages", "system", "tools", "tool_choice", "thinking", "output_config")
_Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class MessageRequest:
    """The body to send; with `is_held_by_call` the arguments of the answer's call are its text."""

    body: bytes
    is_held_by_call: bool


def message_request(request: ChatRequest, model: str) -> MessageRequest:
    """What asks for the chat's answer by `model`; raises `ApiError`, and `UpstreamFailure` for what it cannot do."""
    check_translatable(request, WHO)
    can, said = abilities(model), conversation(request.messages)
    held = structure(request, WHO, has_formats=can.has_formats)
    fields = {
        "model": model,
        "max_tokens": request.token_limit or can.max_tokens,
        "system": "\n\n".join(said.system),
        "messages": [{"role": turn.role, "content": [_block(block) for block in turn.blocks]} for turn in said.turns],
        "stream": request.stream,
        "stop_sequences": list(request.stops),
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k if request.top_k not in (0, -1) else None,
        "metadata": _metadata(request),
        "output_config": _output_config(request, can, held),
        "thinking": thinking(request, can, said),
        **(_forced(held) if held is not None and held.is_call else _tools(request)),
    }
    given = {name: value for name, value in fields.items() if value not in (None, [], "", {})}
    return MessageRequest(msgspec.json.encode(given), held is not None and held.is_call)


def count_request(request: ChatRequest, model: str) -> bytes:
    """What asks how many tokens the chat's prompt has; raises as `message_request`."""
    fields = msgspec.json.decode(message_request(request, model).body)
    return msgspec.json.encode({name: value for name, value in fields.items() if name in _COUNTED})


def _metadata(request: ChatRequest) -> _Fields | None:
    user = request.safety_identifier or request.user
    return None if user is None else {"user_id": user}


def _output_config(request: ChatRequest, can: Abilities, held: Structure | None) -> _Fields:
    config: _Fields = {}
    if (level := effort(request, can)) is not None:
        config["effort"] = level
    if held is not None and not held.is_call:
        schema = closed_schema(held.schema, "response_format.json_schema.schema")
        config["format"] = {"type": "json_schema", "schema": schema}
    return config


def _forced(held: Structure) -> _Fields:
    """The call by which an answer is held to a schema."""
    tool = {"name": held.name, "description": "Give the answer.", "input_schema": held.schema}
    return {"tools": [tool], "tool_choice": {"type": "tool", "name": held.name, "disable_parallel_tool_use": True}}


def _tools(request: ChatRequest) -> _Fields:
    use = request.tool_use
    if request.tools and not use.callable:  # they stay, because calls of them may have been made
        return {"tools": [_tool(tool, request, at) for at, tool in enumerate(request.tools)], "tool_choice": _NO_CALL}
    tools = [_tool(tool, request, at) for at, tool in use.callable]
    if not tools:
        return {}
    single = {"disable_parallel_tool_use": True} if use.is_single else {}
    if use.is_forced:
        name = {"type": "tool", "name": tools[0]["name"]} if len(tools) == 1 else {"type": "any"}
        return {"tools": tools, "tool_choice": {**name, **single}}
    return {"tools": tools, "tool_choice": {"type": "auto", **single} if single else None}


_NO_CALL = {"type": "none"}


def _tool(tool: Tool, request: ChatRequest, at: int) -> _Fields:
    function = tool.function
    parameters: _Fields = function.parameters or {"type": "object", "properties": {}}
    schema = closed_schema(parameters, request.function_param(at, "parameters")) if function.strict else parameters
    fields = {
        "name": function.name,
        "description": function.description,
        "input_schema": schema,
        "strict": True if function.strict else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _block(block: Block) -> _Fields:
    if isinstance(block, Text):
        return {"type": "text", "text": block.text}
    if isinstance(block, Image):
        return {"type": "image", "source": _source(block)}
    if isinstance(block, CallMade):
        return {"type": "tool_use", "id": block.id, "name": block.name, "input": block.arguments}
    return {"type": "tool_result", "tool_use_id": block.id, "content": _result(block.content)}


def _result(content: Sequence[Text | Image]) -> str | list[_Fields]:
    only = content[0] if len(content) == 1 else None
    return only.text if isinstance(only, Text) else [_block(each) for each in content]


def _source(image: Image) -> _Fields:
    source = image.source
    if isinstance(source, InlineImage):
        media_type = "image/jpeg" if source.media_type == "image/jpg" else source.media_type
        if media_type not in _IMAGES:
            raise cannot(image.path, f"it is '{media_type}', and {WHO} reads {', '.join(_IMAGES)}.")
        return {"type": "base64", "media_type": media_type, "data": source.data}
    if not source.startswith("https://"):
        raise cannot(image.path, f"{WHO} fetches images from https addresses only; or send it as a data URL.")
    return {"type": "url", "url": source}
