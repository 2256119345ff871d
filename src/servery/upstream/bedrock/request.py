"""A chat as Bedrock's Converse API is asked for it."""

from dataclasses import dataclass
from typing import Any

import msgspec

from servery.upstream.claude import Abilities, abilities, effort, is_claude, thinking
from servery.upstream.closed_schema import closed_schema
from servery.upstream.refusal import cannot
from servery.upstream.translatable import Structure, check_translatable, reasoning_wish, structure
from servery.upstream.turns import Block, CallMade, Conversation, Image, Text, conversation
from servery.wire.chat import ChatRequest
from servery.wire.images import InlineImage
from servery.wire.tools import Tool

WHO = "Bedrock"
_IMAGES = {"image/png": "png", "image/jpeg": "jpeg", "image/jpg": "jpeg", "image/gif": "gif", "image/webp": "webp"}
_Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ConverseRequest:
    """The body to send; with `is_held_by_call` the arguments of the answer's call are its text."""

    body: bytes
    is_held_by_call: bool


def converse_request(request: ChatRequest, model: str) -> ConverseRequest:
    """What asks for the chat's answer by `model`; raises `ApiError`, and `UpstreamFailure` for what it cannot do."""
    check_translatable(request, WHO)
    can, said = (abilities(model) if is_claude(model) else None), conversation(request.messages)
    # Amazon's own models are held to a schema by a call, all others that can be by the schema.
    has_formats = can.has_formats if can is not None else "nova" not in model
    held = structure(request, WHO, has_formats=has_formats)
    fields = {
        "system": [{"text": text} for text in said.system],
        "messages": [{"role": turn.role, "content": [_block(block) for block in turn.blocks]} for turn in said.turns],
        "inferenceConfig": _given(
            maxTokens=request.token_limit,
            temperature=request.temperature,
            topP=request.top_p,
            stopSequences=list(request.stops) or None,
        ),
        "toolConfig": _forced(held) if held is not None and held.is_call else _tools(request, said, can),
        "outputConfig": _output_config(request, can, held),
        "additionalModelRequestFields": _additional(request, can, said, model),
        "additionalModelResponseFieldPaths": ["/stop_sequence"] if can is not None and request.stops else None,
    }
    given = {name: value for name, value in fields.items() if value}
    return ConverseRequest(msgspec.json.encode(given), held is not None and held.is_call)


def _given(**fields: Any) -> _Fields:
    return {name: value for name, value in fields.items() if value is not None}


def _output_config(request: ChatRequest, can: Abilities | None, held: Structure | None) -> _Fields:
    config = _given(effort=None if can is None else effort(request, can))
    if held is not None and not held.is_call:
        schema = held.schema
        if can is not None:
            schema = closed_schema(schema, "response_format.json_schema.schema")
        asked = {"schema": msgspec.json.encode(schema).decode(), "name": held.name}
        config["textFormat"] = {"type": "json_schema", "structure": {"jsonSchema": asked}}
    return config


def _additional(request: ChatRequest, can: Abilities | None, said: Conversation, model: str) -> _Fields:
    """What Converse has no field for, in the model's own words."""
    top_k = request.top_k if request.top_k not in (0, -1) else None
    if can is None:
        if top_k is not None:
            raise cannot("top_k", f"{WHO} has it for Claude only.")
        return _reasoning(request, model)
    use, choice = request.tool_use, None
    if use.callable and request.parallel_tool_calls is False:
        kind = "auto" if not use.is_forced else "any" if len(use.callable) > 1 else "tool"
        name = use.callable[0][1].function.name if kind == "tool" else None
        choice = _given(type=kind, name=name, disable_parallel_tool_use=True)
    return _given(top_k=top_k, thinking=thinking(request, can, said), tool_choice=choice)


def _reasoning(request: ChatRequest, model: str) -> _Fields:
    wish = reasoning_wish(request)
    if wish.effort is not None and "gpt-oss" in model:
        return {"reasoning_effort": {"minimal": "low", "xhigh": "high", "max": "high"}.get(wish.effort, wish.effort)}
    if (wish.is_on or wish.is_off) and request.insists_on_reasoning:
        raise cannot(request.effort_param, "it is not known how this model's reasoning is set.")
    return {}


def _forced(held: Structure) -> _Fields:
    """The call by which an answer is held to a schema."""
    spec = {"name": held.name, "description": "Give the answer.", "inputSchema": {"json": held.schema}}
    return {"tools": [{"toolSpec": spec}], "toolChoice": {"tool": {"name": held.name}}}


def _tools(request: ChatRequest, said: Conversation, can: Abilities | None) -> _Fields:
    use = request.tool_use
    if not use.callable:
        if said.has_calls:
            why = "calls are in the conversation, so their tools must be given, and then they can be called."
            raise cannot("tool_choice" if request.tools else "tools", f"with {WHO}, {why}")
        return {}
    if request.parallel_tool_calls is False and can is None:
        raise cannot("parallel_tool_calls", f"{WHO} has it for Claude only.")
    tools = [{"toolSpec": _tool(tool, request, at)} for at, tool in use.callable]
    if not use.is_forced:
        return {"tools": tools}
    only = {"tool": {"name": use.callable[0][1].function.name}}
    return {"tools": tools, "toolChoice": only if len(tools) == 1 else {"any": {}}}


def _tool(tool: Tool, request: ChatRequest, at: int) -> _Fields:
    function = tool.function
    parameters: _Fields = function.parameters or {"type": "object", "properties": {}}
    schema = closed_schema(parameters, request.function_param(at, "parameters")) if function.strict else parameters
    return _given(
        name=function.name,
        description=function.description or None,
        inputSchema={"json": schema},
        strict=True if function.strict else None,
    )


def _block(block: Block) -> _Fields:
    if isinstance(block, Text):
        return {"text": block.text}
    if isinstance(block, Image):
        return {"image": _image(block)}
    if isinstance(block, CallMade):
        return {"toolUse": {"toolUseId": block.id, "name": block.name, "input": block.arguments}}
    return {"toolResult": {"toolUseId": block.id, "content": [_block(each) for each in block.content]}}


def _image(image: Image) -> _Fields:
    source = image.source
    if isinstance(source, InlineImage):
        if source.media_type not in _IMAGES:
            raise cannot(image.path, f"it is '{source.media_type}', and {WHO} reads {', '.join(_IMAGES)}.")
        return {"format": _IMAGES[source.media_type], "source": {"bytes": source.data}}
    ending = source.rpartition(".")[2].lower()
    if not source.startswith("s3://") or f"image/{ending}" not in _IMAGES:
        raise cannot(image.path, f"{WHO} fetches images only from s3:// (with their ending); send it as a data URL.")
    return {"format": _IMAGES[f"image/{ending}"], "source": {"s3Location": {"uri": source}}}
