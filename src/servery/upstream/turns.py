"""A chat as APIs have it that know two speakers: turns of the user and the assistant, made of blocks."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import msgspec

from servery.upstream.refusal import cannot
from servery.wire import chat
from servery.wire.images import ImagePart, InlineImage, read_image


@dataclass(frozen=True, slots=True)
class Text:
    """Words; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image or its address; the client knows it as `path`."""

    source: InlineImage | str
    path: str


@dataclass(frozen=True, slots=True)
class CallMade:
    """A call that the assistant made."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """What a tool answered to the call `id`."""

    id: str
    content: Sequence[Text | Image]


_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
Block: TypeAlias = Text | Image | CallMade | Result
Role: TypeAlias = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one speaker said until it was the other's turn."""

    role: Role
    blocks: list[Block] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Conversation:
    """`system` are the texts of the system's messages, wherever they stood; turns alternate, and none is empty."""

    system: Sequence[str]
    turns: Sequence[Turn]

    @property
    def has_calls(self) -> bool:
        """Whether a tool was called."""
        return any(isinstance(block, CallMade) for turn in self.turns for block in turn.blocks)


def conversation(messages: Sequence[chat.Message]) -> Conversation:
    """The chat in turns; raises `ApiError` for an image that is none, `UpstreamFailure` for one where none can be.

    Reasoning of earlier answers stays behind: these APIs take it only with a signature of their own.
    """
    system: list[str] = []
    turns: list[Turn] = []
    for at, message in enumerate(messages):
        path = f"messages[{at}]"
        if isinstance(message, chat.SystemMessage | chat.DeveloperMessage):
            system += [block.text for block in _words(message.content, path)]
        elif isinstance(message, chat.AssistantMessage):
            _add(turns, "assistant", _said(message, path))
        elif isinstance(message, chat.ToolMessage):
            _add(turns, "user", [Result(_id(message.tool_call_id), list(_content(message.content, path)))])
        else:
            _add(turns, "user", _content(message.content, path))
    return Conversation(system, turns)


def _add(turns: list[Turn], role: Role, blocks: Iterable[Block]) -> None:
    found = list(blocks)
    if not found:
        return
    if not turns or turns[-1].role != role:
        turns.append(Turn(role))
    turns[-1].blocks.extend(found)


def _said(message: chat.AssistantMessage, path: str) -> Iterable[Block]:
    yield from _words(message.content or message.refusal or "", path)
    for call in message.tool_calls or []:
        arguments: dict[str, Any] = msgspec.json.decode(call.function.arguments or "{}")
        yield CallMade(_id(call.id or call.function.name), call.function.name, arguments)


def _id(given: str) -> str:
    """An id of a call as these APIs take it: the client's own, or one that stands for it wherever it occurs."""
    return given if _ID.fullmatch(given) else f"call_{hashlib.sha256(given.encode()).hexdigest()[:24]}"


def _words(content: str | list[chat.Part], path: str) -> Iterable[Text]:
    for block in _content(content, path):
        if isinstance(block, Image):
            raise cannot(block.path, "only messages of the user and of tools can have images there.")
        yield block


def _content(content: str | list[chat.Part], path: str) -> Iterable[Text | Image]:
    for at, part in enumerate([chat.TextPart(content)] if isinstance(content, str) else content):
        if isinstance(part, chat.TextPart | chat.RefusalPart):
            text = part.text if isinstance(part, chat.TextPart) else part.refusal
            if text.strip():
                yield Text(text)
        elif isinstance(part, ImagePart):
            where = part.shown_path(f"{path}.content[{at}]")
            yield Image(read_image(part, where), where)
