"""`POST /v1/responses`, OpenAI's newer API: the request, and the chat that it asks for."""

import secrets
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from servery.wire import chat
from servery.wire.body import convert, decode
from servery.wire.chat import ChatRequest
from servery.wire.errors import invalid, unsupported
from servery.wire.images import ImageUrl, PlacedImage
from servery.wire.sampling import check_unsupported
from servery.wire.structure import ResponseFormat
from servery.wire.tools import AllowedChoice, Function, NamedChoice, Tool, ToolChoice

_UNSUPPORTED = {
    "context_management": "conversations are never shortened.",
    "conversation": "there are no stored conversations; use 'previous_response_id'.",
    "max_tool_calls": "there are no tools on the server's side.",
    "moderation": "nothing is moderated.",
    "prompt": "there are no stored prompts.",
}
_FREE = (None, "auto", "none")  # choices that need no tools
_SUMMARIES = (None, "auto")  # what the model may decide: it makes none
# What may be asked to be included, and is there anyway or never arises.
_INCLUDED = frozenset(("message.output_text.logprobs", "reasoning.encrypted_content"))


class _Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="type"):
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


class MessageItem(_Item, frozen=True, kw_only=True, tag="message"):
    """A message, of the model's own or of others."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Content]
    phase: str | None = None


class CallItem(_Item, frozen=True, kw_only=True, tag="function_call"):
    """A call that the model made."""

    call_id: str
    name: str
    arguments: str


class CallOutputItem(_Item, frozen=True, kw_only=True, tag="function_call_output"):
    """What the function gave."""

    call_id: str
    output: str | list[Content]


class ReasoningText(msgspec.Struct, frozen=True, tag_field="type", tag="reasoning_text"):
    """A piece of reasoning."""

    text: str


class ReasoningItem(_Item, frozen=True, kw_only=True, tag="reasoning"):
    """What the model thought."""

    summary: list[Any] = []
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None


Item: TypeAlias = MessageItem | CallItem | CallOutputItem | ReasoningItem
_ID_PREFIXES = {MessageItem: "msg", CallItem: "fc", CallOutputItem: "fco", ReasoningItem: "rs"}


class FunctionTool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function that the model may call; `parameters` is a JSON schema. Tools of other types are refused by name."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class TextFormat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the text is to look like; `schema` and `name` go with the type json_schema."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class TextConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the answer is to be written."""

    format: TextFormat | None = None
    verbosity: str | None = None


class ReasoningConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the model is to think."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class StreamOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Only that events are not padded can be asked for."""

    include_obfuscation: bool | None = None


class ResponsesChat(ChatRequest, frozen=True, kw_only=True):
    """A chat whose client knows its parameters by other names."""

    @property
    def effort_param(self) -> str:
        """As this API has it."""
        return "reasoning.effort"

    def function_param(self, at: int, field: str) -> str:
        """As this API has it."""
        return f"tools[{at}].{field}"


class ResponsesRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something to be answered, perhaps in the course of a conversation (`previous_response_id`)."""

    model: str
    input: str | list[dict[str, Any]] = []
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    include: list[str] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    service_tier: str | None = None
    background: bool | None = None
    context_management: Any = None
    conversation: Any = None
    max_tool_calls: Any = None
    moderation: Any = None
    prompt: Any = None

    @property
    def items(self) -> list[Item]:
        """The input as items; raises `ApiError` for one that is none."""
        if isinstance(self.input, str):
            return [MessageItem(role="user", content=self.input)]
        return [_item(item, f"input[{at}]") for at, item in enumerate(self.input)]

    @property
    def is_stored(self) -> bool:
        """Whether the answer can be gone on with, and read again, later."""
        return self.store is not False

    def chat(self, history: list[Item]) -> ChatRequest:
        """This request after `history` as a checked chat; raises `ApiError`."""
        self._check()
        items = self.items
        if not items:
            raise invalid("'input' is empty; at least one item is needed.", "input")
        request = ResponsesChat(
            model=self.model,
            messages=_messages(self.instructions, history, items),
            max_tokens=self.max_output_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            stream=self.stream,
            logprobs=True if self.top_logprobs or "message.output_text.logprobs" in (self.include or ()) else None,
            top_logprobs=self.top_logprobs,
            tools=[_tool(tool, f"tools[{at}]") for at, tool in enumerate(self.tools or [])] or None,
            tool_choice=_tool_choice(self.tool_choice) if self.tools or self.tool_choice not in _FREE else None,
            parallel_tool_calls=self.parallel_tool_calls,
            response_format=_response_format(self.text),
            reasoning_effort=None if self.reasoning is None else self.reasoning.effort,
            verbosity=None if self.text is None else self.text.verbosity,
            service_tier=self.service_tier,
        )
        request.check()
        return request

    def _check(self) -> None:
        check_unsupported(self, _UNSUPPORTED)
        if self.background:
            raise unsupported("background", "every answer is given at once.")
        if self.truncation == "auto":
            raise unsupported("truncation", "only 'disabled' is; conversations are never shortened.")
        if self.stream_options is not None and self.stream_options.include_obfuscation:
            raise unsupported("stream_options.include_obfuscation", "events are never padded.")
        for name in ("summary", "generate_summary"):
            if self.reasoning is not None and getattr(self.reasoning, name) not in _SUMMARIES:
                raise unsupported(f"reasoning.{name}", "only 'auto' is; reasoning is shown as it was written.")
        for at, name in enumerate(self.include or []):
            if name not in _INCLUDED:
                raise unsupported(f"include[{at}]", f"'{name}' does not arise here.")


_DECODER = msgspec.json.Decoder(ResponsesRequest)


def decode_responses(body: bytes) -> ResponsesRequest:
    """A request; raises `ApiError`."""
    return decode(body, _DECODER)


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


def _item(item: dict[str, Any], path: str) -> Item:
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


def _tool(tool: FunctionTool, path: str) -> Tool:
    if tool.type != "function":
        raise unsupported(
            path, f"'{tool.type}' would run on the server's side; only functions of your own can be given."
        )
    if tool.name is None:
        raise invalid(f"Missing required parameter: '{path}.name'.", f"{path}.name", "missing_required_parameter")
    return Tool(Function(tool.name, tool.description, tool.parameters, tool.strict))


def _tool_choice(choice: str | dict[str, Any] | None) -> ToolChoice | None:
    """As the chat's own request has it, where a function's name is one level deeper."""
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "allowed_tools":
        listed = choice.get("tools")
        tools = [_named(each) for each in listed] if isinstance(listed, list) else listed
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode"), "tools": tools}}
    flat = ("allowed_tools", "function")
    chosen: ToolChoice = convert(_named(choice), NamedChoice | AllowedChoice, "tool_choice", flat=flat)
    return chosen


def _named(choice: Any) -> Any:
    if isinstance(choice, dict) and choice.get("type") == "function" and "function" not in choice:
        return {"type": "function", "function": {name: value for name, value in choice.items() if name != "type"}}
    return choice


def _response_format(text: TextConfig | None) -> Any:
    if text is None or text.format is None or text.format.type == "text":
        return None
    asked = text.format
    value: dict[str, Any] = {"type": asked.type}
    if asked.type == "json_schema":
        fields = {"name": asked.name, "description": asked.description, "schema": asked.schema, "strict": asked.strict}
        value["json_schema"] = {name: field for name, field in fields.items() if field is not None}
    return convert(value, ResponseFormat, "text.format", flat=("json_schema",))


def _messages(instructions: str | None, history: Sequence[Item], items: Sequence[Item]) -> list[chat.Message]:
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
