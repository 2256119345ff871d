"""`POST /v1/chat/completions`: the request."""

from collections.abc import Sequence
from typing import Any

import msgspec

from servery.wire.body import decode
from servery.wire.errors import invalid, shown, unsupported
from servery.wire.images import ImagePart
from servery.wire.sampling import Generation, check_unsupported
from servery.wire.tools import Tool, ToolChoice, ToolUse, check_tools, tool_use
from servery.wire.vllm import CHAT_NEUTRAL, check_neutral

MAX_TOP_LOGPROBS = 20
MAX_BUDGET_TOKENS = 2**31

_UNSUPPORTED = {
    "audio": "this model writes text only.",
    "function_call": "it is deprecated; use 'tool_choice'.",
    "functions": "it is deprecated; use 'tools'.",
    "prediction": "remove it; speculation needs no help from the client.",
    "verbosity": "the model has no verbosity levels.",
    "web_search_options": "there is no web search.",
}
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
# By which templates are told of these: the level itself, and switches that are true or false.
EFFORT_LEVEL = "reasoning_effort"
EFFORT_SWITCHES = ("enable_thinking", "thinking")
_RESERVED_VARIABLES = frozenset(("messages", "tools", "add_generation_prompt", "self", "tokenizer"))


class TextPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    """A piece of text."""

    text: str


class RefusalPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="refusal"):
    """A refusal that an assistant gave earlier."""

    refusal: str


class AudioPart(msgspec.Struct, frozen=True, tag_field="type", tag="input_audio"):
    """Known so that it can be refused by name."""


class FilePart(msgspec.Struct, frozen=True, tag_field="type", tag="file"):
    """Known so that it can be refused by name."""


Part = TextPart | RefusalPart | ImagePart | AudioPart | FilePart


class ToolFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function that a tool call names; `arguments` is JSON text."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call that an assistant made earlier; `index` is left over from streamed deltas."""

    function: ToolFunction
    id: str | None = None
    type: str | None = None
    index: int | None = None


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="role"):
    content: str | list[Part]
    name: str | None = None


class SystemMessage(_Message, frozen=True, tag="system"):
    """What the model is told to be."""


class DeveloperMessage(_Message, frozen=True, tag="developer"):
    """The newer name of a system message; templates know only that one."""


class UserMessage(_Message, frozen=True, tag="user"):
    """What the user said."""


class AssistantMessage(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="role", tag="assistant"
):
    """What the model said earlier, as clients send answers back: with the fields that answers have."""

    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None


class ToolMessage(_Message, frozen=True, kw_only=True, tag="tool"):
    """What a tool answered."""

    tool_call_id: str


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


class ChatRequest(Generation, frozen=True, kw_only=True):
    """A chat to be continued.

    Beyond OpenAI's parameters: `chat_template_kwargs` go to the template; `add_generation_prompt` (default true) ends the
    prompt with the head of an assistant message; `continue_final_message` lets the model go on with the last message, which
    is the assistant's: the answer is what follows its text; `thinking_token_budget` is the most tokens of reasoning;
    `include_reasoning` (default true) shows it.
    """

    messages: list[Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    thinking_token_budget: int | None = None
    modalities: list[str] | None = None
    service_tier: str | None = None
    store: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    include_reasoning: bool | None = None
    add_special_tokens: bool | None = None
    chat_template: str | None = None
    documents: list[Any] | None = None
    mm_processor_kwargs: dict[str, Any] | None = None
    echo: bool | None = None
    best_of: int | None = None
    continue_final_message: bool | None = None
    audio: Any = None
    function_call: Any = None
    functions: Any = None
    prediction: Any = None
    verbosity: Any = None
    web_search_options: Any = None

    @property
    def token_limit(self) -> int | None:
        """The most tokens to generate, by either of its names."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def token_limit_param(self) -> str:
        """The name under which the client gave the limit."""
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    @property
    def tool_use(self) -> ToolUse:
        """What is wanted of the tools."""
        return tool_use(self.tools, self.tool_choice, self.parallel_tool_calls)

    # What an API that is not OpenAI's chat calls these, where it is translated into this request.

    @property
    def budget_param(self) -> str:
        """The name under which the client gave `thinking_token_budget`."""
        return "thinking_token_budget"

    @property
    def effort_param(self) -> str:
        """The name under which the client gave `reasoning_effort`."""
        return "reasoning_effort"

    @property
    def call_id_prefix(self) -> str:
        """How ids of tool calls begin."""
        return "call_"

    @property
    def is_cut_to_fit(self) -> bool:
        """Whether an answer whose limit goes beyond the context ends with the context; otherwise it is refused."""
        return False

    def function_param(self, at: int, field: str) -> str:
        """The name under which the client gave a field of a tool's function: `name` or `parameters`."""
        return f"tools[{at}].function.{field}"

    @property
    def most_name_chars(self) -> int:
        """How long the name of a function may be."""
        return 64

    @property
    def insists_on_reasoning(self) -> bool:
        """Whether a budget is an error for a model that does not reason, and so stays below any."""
        return True

    def check(self) -> None:
        """Raise `ApiError` for what no type can express and for what this server cannot do."""
        super().check()
        check_unsupported(self, _UNSUPPORTED)
        check_neutral(self, CHAT_NEUTRAL)
        check_messages(self.messages)
        check_tools(self.tools, self.tool_choice, self.function_param, self.most_name_chars)
        _check_reasoning(self)
        _check_answer_form(self)
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            message = f"'max_tokens' is {self.max_tokens} and 'max_completion_tokens' {self.max_completion_tokens}"
            raise invalid(f"{message}: they mean the same, so give only one of them.", "max_completion_tokens")


_DECODER = msgspec.json.Decoder(ChatRequest)


def decode_chat(body: bytes) -> ChatRequest:
    """A checked request; raises `ApiError`."""
    request = decode(body, _DECODER)
    request.check()
    return request


def _check_answer_form(request: ChatRequest) -> None:
    if request.modalities is not None and request.modalities != ["text"]:
        raise unsupported("modalities", "only ['text'] is; this model writes text only.")
    if request.store:
        raise unsupported("store", "answers are not stored.")
    if request.service_tier not in (None, "auto", "default"):
        raise unsupported("service_tier", "only 'auto' and 'default' are; there is one tier.")
    if request.top_logprobs is not None and not request.logprobs:
        raise invalid("'top_logprobs' is only allowed when 'logprobs' is true.", "top_logprobs")
    if request.top_logprobs is not None and not 0 <= request.top_logprobs <= MAX_TOP_LOGPROBS:
        message = f"'top_logprobs' is {request.top_logprobs}; it must be between 0 and {MAX_TOP_LOGPROBS}."
        raise invalid(message, "top_logprobs")
    if request.add_special_tokens:
        raise unsupported("add_special_tokens", "the chat template has them all.")
    if request.continue_final_message:
        _check_continued(request)
    check_template_variables(request.chat_template_kwargs)


def _check_continued(request: ChatRequest) -> None:
    param = "continue_final_message"
    last = request.messages[-1]
    if not isinstance(last, AssistantMessage) or not last.content or last.tool_calls:
        message = f"'{param}' needs a last message of the assistant that has text and no tool calls."
        raise invalid(message, param)
    if request.add_generation_prompt:
        raise invalid(f"'{param}' and 'add_generation_prompt' exclude each other.", param)


def check_template_variables(variables: dict[str, Any] | None) -> None:
    """Raise `ApiError` for a variable that would take the place of something else that the template is given."""
    for name in _RESERVED_VARIABLES.intersection(variables or ()):
        param = f"chat_template_kwargs.{name}"
        raise invalid(f"'{param}' cannot be set: the server gives the template its own '{name}'.", param)


def _check_reasoning(request: ChatRequest) -> None:
    effort, budget = request.reasoning_effort, request.thinking_token_budget
    if effort is not None and effort not in EFFORTS:
        given = f"Invalid value for '{request.effort_param}': '{shown(effort)}'."
        raise invalid(f"{given} Use one of {', '.join(map(repr, EFFORTS))}.", request.effort_param)
    for name in (EFFORT_LEVEL, *EFFORT_SWITCHES):
        if effort is not None and request.insists_on_reasoning and name in (request.chat_template_kwargs or ()):
            message = f"'{request.effort_param}' and 'chat_template_kwargs.{name}' mean the same; give one of them."
            raise invalid(message, request.effort_param)
    if budget is not None and not 1 <= budget <= MAX_BUDGET_TOKENS:
        message = f"'{request.budget_param}' is {shown(str(budget))}; it must be between 1 and {MAX_BUDGET_TOKENS}"
        raise invalid(f"{message} ('reasoning_effort': 'none' switches reasoning off).", request.budget_param)
    if budget is not None and effort == "none":
        message = f"'{request.budget_param}' has no use when '{request.effort_param}' is 'none'; give one of them."
        raise invalid(message, request.budget_param)


def check_messages(messages: list[Message]) -> None:
    """Raise `ApiError` for messages that say nothing, or something other than words and images."""
    if not messages:
        raise invalid("'messages' is empty; at least one message is needed.", "messages")
    for at, message in enumerate(messages):
        if isinstance(message.content, list):
            _check_parts(message.content, f"messages[{at}].content")
        if isinstance(message, AssistantMessage):
            _check_assistant(message, f"messages[{at}]")


def check_text_only(messages: Sequence[Message]) -> None:
    """Raise `ApiError` for an image, which a model of text alone cannot see."""
    for at, message in enumerate(messages):
        for part_at, part in enumerate(message.content if isinstance(message.content, list) else ()):
            if isinstance(part, ImagePart):
                raise part.refusal(f"messages[{at}].content[{part_at}]")


def _check_parts(parts: list[Part], path: str) -> None:
    if not parts:
        raise invalid(f"'{path}' is empty; at least one part is needed.", path)
    for at, part in enumerate(parts):
        if isinstance(part, AudioPart | FilePart):
            kind = part.__struct_config__.tag
            raise unsupported(f"{path}[{at}]", f"'{kind}' parts cannot be read; this model takes text only.")


def _check_assistant(message: AssistantMessage, path: str) -> None:
    given = (message.content, message.refusal, message.reasoning_content)
    if not message.tool_calls and all(text is None for text in given):
        raise invalid(f"'{path}' has neither 'content' nor 'tool_calls'.", f"{path}.content")
    for at, call in enumerate(message.tool_calls or []):
        if call.type not in (None, "function"):
            raise unsupported(f"{path}.tool_calls[{at}].type", "only 'function' is.")
        check_arguments(call.function.arguments, f"{path}.tool_calls[{at}].function.arguments")


def check_arguments(text: str, path: str) -> None:
    """Raise `ApiError` for the arguments of a call that are no JSON object."""
    try:
        msgspec.json.decode(text or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        raise invalid(f"'{path}' must be a JSON object, written as a string.", path) from None


def template_messages(messages: list[Message]) -> list[dict[str, Any]]:
    """The messages as chat templates expect them: text only, the roles that they know, nothing that is not given."""
    return [_template_message(message) for message in messages]


def _template_message(message: Message) -> dict[str, Any]:
    role = "system" if isinstance(message, DeveloperMessage) else str(message.__struct_config__.tag)
    fields: dict[str, Any] = {"role": role, "content": _texts(message.content), "name": message.name}
    if isinstance(message, ToolMessage):
        fields["tool_call_id"] = message.tool_call_id
    if isinstance(message, AssistantMessage):
        fields["content"] = _texts(message.content) or message.refusal or ""
        fields["reasoning_content"] = message.reasoning_content
        fields["tool_calls"] = [_template_call(call) for call in message.tool_calls or []] or None
    return _without_none(fields)


def _template_call(call: ToolCall) -> dict[str, Any]:
    return _without_none({"id": call.id, "type": "function", "function": msgspec.to_builtins(call.function)})


def _texts(content: str | list[Part] | None) -> str | list[dict[str, str]] | None:
    if not isinstance(content, list):
        return content
    texts = [part.text for part in content if isinstance(part, TextPart)]
    refusals = [part.refusal for part in content if isinstance(part, RefusalPart)]
    return [{"type": "text", "text": text} for text in texts or refusals]


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
