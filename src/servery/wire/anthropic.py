"""`POST /v1/messages` and `/v1/messages/count_tokens`, Anthropic's API: the request, and the chat that it asks for.

Accepted and without effect, because they only steer Anthropic's own service: `cache_control` (whatever repeats is cached
anyway), `metadata`, `service_tier`. `thinking` bounds reasoning; a model that does not reason stays below any bound.
"""

from typing import Any, Literal

import msgspec

from servery.wire import chat
from servery.wire.anthropic_turns import TextBlock, Turn, messages_of
from servery.wire.body import decode
from servery.wire.chat import ChatRequest
from servery.wire.errors import invalid, unsupported
from servery.wire.structure import ResponseFormat
from servery.wire.tools import ChosenFunction, Function, NamedChoice, Tool

_LEAST_THINKING_TOKENS = 1024  # Anthropic's own least budget


class AnthropicTool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function that the model may call; `input_schema` is a JSON schema."""

    name: str
    input_schema: dict[str, Any] | None = None
    description: str | None = None
    type: str | None = None
    strict: bool | None = None
    cache_control: dict[str, Any] | None = None
    input_examples: list[Any] | None = None
    eager_input_streaming: bool | None = None


class AnthropicToolChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether a tool must be called, and which."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much the model may reason before it answers."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None
    display: str | None = None


class OutputFormat(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The JSON schema that the answer must follow."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the answer is to look like."""

    format: OutputFormat | None = None
    effort: str | None = None


class AnthropicChat(ChatRequest, frozen=True, kw_only=True):
    """A chat whose client knows its parameters by Anthropic's names."""

    @property
    def budget_param(self) -> str:
        """As Anthropic has it."""
        return "thinking.budget_tokens"

    @property
    def effort_param(self) -> str:
        """As Anthropic has it."""
        return "output_config.effort"

    @property
    def call_id_prefix(self) -> str:
        """As Anthropic has it."""
        return "toolu_"

    @property
    def is_cut_to_fit(self) -> bool:
        """Its clients must name a limit, and agents name the most that any model gives."""
        return True

    def function_param(self, at: int, field: str) -> str:
        """As Anthropic has it."""
        return f"tools[{at}].{'input_schema' if field == 'parameters' else field}"

    @property
    def most_name_chars(self) -> int:
        """As Anthropic has it."""
        return 128

    @property
    def insists_on_reasoning(self) -> bool:
        """Agents send a budget to every model."""
        return False


class CountRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A conversation whose tokens are to be counted."""

    model: str
    messages: list[Turn]
    system: str | list[TextBlock] | None = None
    tools: list[AnthropicTool] | None = None
    tool_choice: AnthropicToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: dict[str, Any] | None = None

    def chat(self) -> ChatRequest:
        """The same conversation as a checked chat; raises `ApiError`."""
        return _checked(AnthropicChat(**self._chat_fields()))

    def _chat_fields(self) -> dict[str, Any]:
        choice, is_prefilled = self.tool_choice, bool(self.messages) and self.messages[-1].role == "assistant"
        format_ = None if self.output_config is None else self.output_config.format
        return {
            "model": self.model,
            "messages": messages_of(self.system, self.messages),
            "tools": [_tool(tool, f"tools[{at}]") for at, tool in enumerate(self.tools or [])] or None,
            "tool_choice": _tool_choice(choice) if choice and (self.tools or choice.type in ("any", "tool")) else None,
            "parallel_tool_calls": False if choice is not None and choice.disable_parallel_tool_use else None,
            "chat_template_kwargs": _thinking_variables(self.thinking),
            "thinking_token_budget": None if self.thinking is None else self.thinking.budget_tokens,
            "reasoning_effort": None if self.output_config is None else self.output_config.effort,
            "continue_final_message": True if is_prefilled else None,
            "response_format": None if format_ is None else _response_format(format_),
        }


class AnthropicRequest(CountRequest, frozen=True, kw_only=True):
    """A conversation to be continued."""

    max_tokens: int
    stream: bool | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None

    def chat(self) -> ChatRequest:
        """The same request as a checked chat; raises `ApiError`."""
        self._check()
        return _checked(
            AnthropicChat(
                **self._chat_fields(),
                max_tokens=self.max_tokens,
                stream=self.stream,
                stop=self.stop_sequences,
                temperature=self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
            )
        )

    def _check(self) -> None:
        """Raise `ApiError` for what Anthropic's API does not take and others do."""
        if self.temperature is not None and not 0 <= self.temperature <= 1:
            raise invalid(f"'temperature' is {self.temperature:g}; it must be between 0 and 1.", "temperature")
        budget = None if self.thinking is None else self.thinking.budget_tokens
        if budget is not None and self.max_tokens <= budget:
            message = f"'max_tokens' is {self.max_tokens} and 'thinking.budget_tokens' {budget}, which it includes"
            raise invalid(f"{message}: raise 'max_tokens' or lower the budget.", "max_tokens")


_REQUEST = msgspec.json.Decoder(AnthropicRequest)
_COUNT = msgspec.json.Decoder(CountRequest)


def decode_anthropic(body: bytes) -> AnthropicRequest:
    """A request for a message; raises `ApiError`."""
    return decode(body, _REQUEST)


def decode_anthropic_count(body: bytes) -> CountRequest:
    """A request for a count; raises `ApiError`."""
    return decode(body, _COUNT)


def _checked(request: ChatRequest) -> ChatRequest:
    request.check()
    return request


def _response_format(format_: OutputFormat) -> Any:
    """As the chat's own request has it."""
    return msgspec.convert(
        {"type": "json_schema", "json_schema": {"name": "answer", "schema": format_.schema, "strict": True}},
        ResponseFormat,
    )


def _thinking_variables(thinking: Thinking | None) -> dict[str, Any] | None:
    """The variables by which the templates of models that can do both switch reasoning on and off."""
    if thinking is None:
        return None
    budget = thinking.budget_tokens
    if thinking.display not in (None, "summarized"):
        raise unsupported("thinking.display", "reasoning is always shown as the model wrote it.")
    if thinking.type == "enabled" and budget is None:
        raise invalid("Missing required parameter: 'thinking.budget_tokens'.", "thinking.budget_tokens")
    if budget is not None and budget < _LEAST_THINKING_TOKENS:
        message = f"'thinking.budget_tokens' is {budget}; it must be at least {_LEAST_THINKING_TOKENS}."
        raise invalid(message, "thinking.budget_tokens")
    return dict.fromkeys(chat.EFFORT_SWITCHES, thinking.type != "disabled")


def _tool(tool: AnthropicTool, path: str) -> Tool:
    if tool.type not in (None, "custom"):
        raise unsupported(path, f"'{tool.type}' runs on Anthropic's side; only tools of your own can be given.")
    return Tool(Function(tool.name, tool.description, tool.input_schema or {"type": "object"}, tool.strict))


def _tool_choice(choice: AnthropicToolChoice) -> str | NamedChoice:
    if choice.type == "tool":
        if choice.name is None:
            raise invalid("Missing required parameter: 'tool_choice.name'.", "tool_choice.name")
        return NamedChoice(ChosenFunction(choice.name))
    return {"auto": "auto", "any": "required", "none": "none"}[choice.type]
