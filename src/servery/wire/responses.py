"""`POST /v1/responses`, OpenAI's newer API: the request, and the chat that it asks for."""

from typing import Any, Literal

import msgspec

from servery.wire.body import convert, decode
from servery.wire.chat import ChatRequest
from servery.wire.errors import invalid, unsupported
from servery.wire.responses_items import Item, MessageItem, item_of, messages_of
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
        return [item_of(item, f"input[{at}]") for at, item in enumerate(self.input)]

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
            messages=messages_of(self.instructions, history, items),
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
