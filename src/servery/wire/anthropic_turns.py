"""The turns of a conversation in Anthropic's API, their blocks, and the messages of a chat that they are."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from servery.wire import chat
from servery.wire.errors import invalid, unsupported
from servery.wire.images import ImageUrl, PlacedImage, data_url


class _Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type"):
    cache_control: dict[str, Any] | None = None


class TextBlock(_Block, frozen=True, kw_only=True, tag="text"):
    """A piece of text."""

    text: str
    citations: list[Any] | None = None


class ToolUseBlock(_Block, frozen=True, kw_only=True, tag="tool_use"):
    """A call that the assistant made earlier."""

    id: str
    name: str
    input: dict[str, Any]
    caller: dict[str, Any] | None = None


class ToolResultBlock(_Block, frozen=True, kw_only=True, tag="tool_result"):
    """What a tool answered."""

    tool_use_id: str
    content: str | list["TextBlock | ImageBlock | DocumentBlock"] | None = None
    is_error: bool | None = None


class ThinkingBlock(_Block, frozen=True, kw_only=True, tag="thinking"):
    """Reasoning of an earlier answer, as it was sent."""

    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(_Block, frozen=True, kw_only=True, tag="redacted_thinking"):
    """Reasoning that only Anthropic could read."""

    data: str


class Base64Source(msgspec.Struct, frozen=True, tag_field="type", tag="base64"):
    """An image itself; `data` is base64."""

    media_type: str
    data: str


class UrlSource(msgspec.Struct, frozen=True, tag_field="type", tag="url"):
    """Where an image is."""

    url: str


class ImageBlock(msgspec.Struct, frozen=True, tag_field="type", tag="image"):
    """An image."""

    source: Base64Source | UrlSource


class DocumentBlock(msgspec.Struct, frozen=True, tag_field="type", tag="document"):
    """Known so that it can be refused by name."""


Block = TextBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | RedactedThinkingBlock | ImageBlock | DocumentBlock


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A message of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


def messages_of(system: str | list[TextBlock] | None, turns: list[Turn]) -> list[chat.Message]:
    """A conversation with its instructions; raises `ApiError` for turns and blocks that are out of place."""
    messages: list[chat.Message] = []
    if system:
        parts: str | list[chat.Part] = system if isinstance(system, str) else [_text(block) for block in system]
        messages.append(chat.SystemMessage(content=parts))
    for at, turn in enumerate(turns):
        if turn.role == "system":
            _check_system_place(at, turns)
        messages += _turn_messages(turn, f"messages[{at}]")
    return messages


def _check_system_place(at: int, turns: list[Turn]) -> None:
    """A system turn changes the instructions in the course of a conversation; those at its start are `system`."""
    path = f"messages[{at}]"
    if at == 0:
        raise invalid(f"'{path}' has the role system; give the first instructions as 'system'.", f"{path}.role")
    if turns[at - 1].role != "user":
        before = turns[at - 1].role
        message = f"'{path}' has the role system and follows a turn of the {before}; it must follow one of the user."
        raise invalid(message, f"{path}.role")


def _turn_messages(turn: Turn, path: str) -> list[chat.Message]:
    """A turn as messages: a user's turn with tool results is first what the tools said, then what the user said."""
    blocks: list[Block] = [TextBlock(text=turn.content)] if isinstance(turn.content, str) else turn.content
    if not blocks:
        raise invalid(f"'{path}.content' is empty; at least one block is needed.", f"{path}.content")
    for at, block in enumerate(blocks):
        _check_block(block, turn.role, f"{path}.content[{at}]")
    parts = _parts(blocks, f"{path}.content")
    if turn.role == "assistant":
        return [_assistant(blocks, parts)]
    if turn.role == "system":
        return [chat.SystemMessage(content=parts)]
    results = [
        _tool_message(block, f"{path}.content[{at}]")
        for at, block in enumerate(blocks)
        if isinstance(block, ToolResultBlock)
    ]
    return [*results, chat.UserMessage(content=parts)] if parts else results


def _check_block(block: Block, role: str, path: str) -> None:
    allowed: dict[str, tuple[type, ...]] = {
        "user": (TextBlock, ImageBlock, ToolResultBlock),
        "assistant": (TextBlock, ToolUseBlock, ThinkingBlock, RedactedThinkingBlock),
        "system": (TextBlock,),
    }
    kind = str(block.__struct_config__.tag)
    if isinstance(block, DocumentBlock):
        raise unsupported(path, f"'{kind}' blocks cannot be read; this model takes text only.")
    if not isinstance(block, allowed[role]):
        raise invalid(f"'{path}' is a '{kind}' block, which a turn of the {role} cannot have.", path)
    if isinstance(block, ToolResultBlock) and isinstance(block.content, list):
        for at, part in enumerate(block.content):
            if isinstance(part, DocumentBlock):
                tag = part.__struct_config__.tag
                where = f"{path}.content[{at}]"
                raise unsupported(where, f"'{tag}' blocks cannot be read; this model takes text only.")


def _assistant(blocks: list[Block], texts: list[chat.Part]) -> chat.AssistantMessage:
    calls = [
        chat.ToolCall(chat.ToolFunction(block.name, msgspec.json.encode(block.input).decode()), block.id, "function")
        for block in blocks
        if isinstance(block, ToolUseBlock)
    ]
    thinking = "\n".join(block.thinking for block in blocks if isinstance(block, ThinkingBlock))
    only = texts[0] if len(texts) == 1 else None
    content = only.text if isinstance(only, chat.TextPart) else texts or (None if calls or thinking else "")
    return chat.AssistantMessage(content=content, tool_calls=calls or None, reasoning_content=thinking or None)


def _tool_message(block: ToolResultBlock, path: str) -> chat.Message:
    content: str | list[chat.Part] = block.content if isinstance(block.content, str) else ""
    if isinstance(block.content, list):
        content = _parts(block.content, f"{path}.content") or ""
    return chat.ToolMessage(content=content, tool_call_id=block.tool_use_id)


def _parts(blocks: Sequence[Block], path: str) -> list[chat.Part]:
    """The words and images among the blocks, which stand at `path`."""
    return [
        _text(block) if isinstance(block, TextBlock) else _image(block, f"{path}[{at}]")
        for at, block in enumerate(blocks)
        if isinstance(block, TextBlock | ImageBlock)
    ]


def _text(block: TextBlock) -> chat.TextPart:
    return chat.TextPart(text=block.text)


def _image(block: ImageBlock, path: str) -> PlacedImage:
    source = block.source
    url = source.url if isinstance(source, UrlSource) else data_url(source.media_type, source.data)
    return PlacedImage(image_url=ImageUrl(url), path=path, noun="'image' blocks")
