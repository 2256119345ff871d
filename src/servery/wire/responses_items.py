"""The items of a conversation in the Responses API, and the messages of a chat that they are."""

import secrets
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from servery.wire import chat
from servery.wire.body import convert
from servery.wire.errors import invalid, unsupported
from servery.wire.images import ImageUrl, PlacedImage


class _Identified(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type"):
    id: str | None = None
    status: str | None = None


class InputText(msgspec.Struct, frozen=True, tag_field="type", tag="input_text"):
    """A piece of what was said to the model."""

    text: str


class OutputText(msgspec.Struct, frozen=True, tag_field="type", tag="output_text"):
    """A piece of what the model said."""

    text: str


class Refusal(msgspec.Struct, frozen=True, tag_field="type", tag="refusal"):
    """A refusal of the model's."""

    refusal: str


class InputImage(msgspec.Struct, frozen=True, tag_field="type", tag="input_image"):
    """An image: its address, or itself as a data URL."""

    image_url: str | None = None
    file_id: str | None = None
    detail: str | None = None


class InputFile(msgspec.Struct, frozen=True, tag_field="type", tag="input_file"):
    """Known so that it can be refused by name."""


Content = InputText | OutputText | Refusal | InputImage | InputFile


class MessageItem(_Identified, frozen=True, kw_only=True, tag="message"):
    """A message, of the model's own or of others."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Content]
    phase: str | None = None


class CallItem(_Identified, frozen=True, kw_only=True, tag="function_call"):
    """A call that the model made."""

    call_id: str
    name: str
    arguments: str


class CallOutputItem(_Identified, frozen=True, kw_only=True, tag="function_call_output"):
    """What the function gave."""

    call_id: str
    output: str | list[Content]


class ReasoningText(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning_text"):
    """A piece of reasoning."""

    text: str


class ReasoningItem(_Identified, frozen=True, kw_only=True, tag="reasoning"):
    """What the model thought."""

    summary: list[Any] = []
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None


Item: TypeAlias = MessageItem | CallItem | CallOutputItem | ReasoningItem
_ID_PREFIXES = {MessageItem: "msg", CallItem: "fc", CallOutputItem: "fco", ReasoningItem: "rs"}


def identified(items: Sequence[Item]) -> list[Item]:
    """The items, those without an id given one."""
    return [
        item if item.id else msgspec.structs.replace(item, id=f"{_ID_PREFIXES[type(item)]}_{secrets.token_hex(16)}")
        for item in items
    ]


def encode_items(items: Sequence[Item], has_more: bool) -> bytes:
    """The body of the answer to `/v1/responses/{id}/input_items`: a page of them, texts in parts."""
    data = [_shown_item(item) for item in items]
    ends = {"first_id": items[0].id, "last_id": items[-1].id} if items else {"first_id": None, "last_id": None}
    return msgspec.json.encode({"object": "list", "data": data, **ends, "has_more": has_more})


def _shown_item(item: Item) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(item)
    if isinstance(item, MessageItem) and isinstance(item.content, str):
        kind = "output_text" if item.role == "assistant" else "input_text"
        fields["content"] = [{"type": kind, "text": item.content}]
    return {name: value for name, value in fields.items() if value is not None}


def item_of(item: dict[str, Any], path: str) -> Item:
    """An item as the client wrote it at `path`; raises `ApiError`."""
    kind = item.get("type", "message")
    if kind == "item_reference":
        raise unsupported(path, "items cannot be referred to; send them, or use 'previous_response_id'.")
    if kind not in ("message", "function_call", "function_call_output", "reasoning"):
        raise unsupported(path, f"there are no '{kind}' items; only function calls of your own and text.")
    converted: Item = convert({**item, "type": kind}, Item, path)
    if isinstance(converted, MessageItem):
        _check_parts(converted.content, f"{path}.content")
    elif isinstance(converted, CallItem):
        chat.check_arguments(converted.arguments, f"{path}.arguments")
    elif isinstance(converted, CallOutputItem):
        _check_parts(converted.output, f"{path}.output")
    return converted


def _check_parts(parts: str | list[Content], path: str) -> None:
    if parts == []:
        raise invalid(f"'{path}' is empty; at least one part is needed.", path)
    for at, part in enumerate(parts):
        if isinstance(part, InputFile):
            raise unsupported(f"{path}[{at}]", "'input_file' parts cannot be read; this model takes text only.")
        if isinstance(part, InputImage) and part.image_url is None:
            raise unsupported(f"{path}[{at}].file_id", "no files are kept for models; give the image as 'image_url'.")


def messages_of(instructions: str | None, history: Sequence[Item], items: Sequence[Item]) -> list[chat.Message]:
    """All items as a chat: reasoning and calls join the assistant's message that they belong to."""
    messages: list[chat.Message] = []
    if instructions is not None:
        messages.append(chat.SystemMessage(content=instructions))
    reasoning = ""
    for at, item in enumerate((*history, *items), start=-len(history)):
        path = f"input[{at}]" if at >= 0 else "previous_response_id"
        if isinstance(item, ReasoningItem):
            reasoning += "".join(part.text for part in item.content or [])
        elif isinstance(item, CallOutputItem):
            messages.append(
                chat.ToolMessage(content=_content(item.output, f"{path}.output"), tool_call_id=item.call_id)
            )
        elif isinstance(item, CallItem):
            _add_call(messages, item, reasoning)
            reasoning = ""
        elif item.role == "assistant":
            content = _content(item.content, f"{path}.content")
            messages.append(chat.AssistantMessage(content=content, reasoning_content=reasoning or None))
            reasoning = ""
        else:
            messages.append(_message(item, path))
    return messages


def _message(item: MessageItem, path: str) -> chat.Message:
    content = _content(item.content, f"{path}.content")
    if item.role == "user":
        return chat.UserMessage(content=content)
    return chat.SystemMessage(content=content)


def _add_call(messages: list[chat.Message], item: CallItem, reasoning: str) -> None:
    call = chat.ToolCall(chat.ToolFunction(item.name, item.arguments), item.call_id, "function")
    last = messages[-1] if messages else None
    if isinstance(last, chat.AssistantMessage) and not reasoning:
        messages[-1] = msgspec.structs.replace(last, tool_calls=[*(last.tool_calls or []), call])
    else:
        messages.append(chat.AssistantMessage(tool_calls=[call], reasoning_content=reasoning or None))


def _content(content: str | list[Content], path: str) -> str | list[chat.Part]:
    if isinstance(content, str):
        return content
    return [_part(part, f"{path}[{at}]") for at, part in enumerate(content)]


def _part(part: Content, path: str) -> chat.Part:
    if isinstance(part, InputText | OutputText):
        return chat.TextPart(text=part.text)
    if isinstance(part, Refusal):
        return chat.RefusalPart(refusal=part.refusal)
    if isinstance(part, InputFile):
        return chat.FilePart()
    url = ImageUrl(part.image_url or "", part.detail)
    return PlacedImage(image_url=url, path=path, noun="'input_image' parts")
