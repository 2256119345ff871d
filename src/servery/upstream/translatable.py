"""What a request for a chat may ask for where it has to be put into the words of another API."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from servery.upstream.ask import Ask
from servery.upstream.failure import Kind, UpstreamFailure
from servery.upstream.refusal import cannot, unspoken
from servery.upstream.upstream import Call
from servery.wire.chat import EFFORT_LEVEL, EFFORT_SWITCHES, AssistantMessage, ChatRequest, Part, TextPart
from servery.wire.errors import ApiError
from servery.wire.structure import JsonSchemaFormat

# What is refused because it would have to be understood: a deployment that speaks the client's API may take it as it is.
_ONLY_HERE = ("unknown_parameter", "unsupported_parameter")
FORCED_TOOL = "give_answer"
# Parameters that these APIs lack, and when they ask for nothing.
_MEANS_NOTHING: Mapping[str, Callable[[Any], bool]] = {
    "n": lambda value: value == 1,
    "logprobs": lambda value: not value,
    "logit_bias": lambda value: not value,
    "presence_penalty": lambda value: value == 0,
    "frequency_penalty": lambda value: value == 0,
    "repetition_penalty": lambda value: value == 1,
    "min_p": lambda value: value == 0,
    "seed": lambda value: False,
    "stop_token_ids": lambda value: not value,
    "ignore_eos": lambda value: not value,
    "min_tokens": lambda value: value == 0,
    "allowed_token_ids": lambda value: False,
    "include_stop_str_in_output": lambda value: not value,
    "skip_special_tokens": bool,
    "cache_salt": lambda value: False,
    "debug": lambda value: not value,
    "add_generation_prompt": bool,
}


def check_translatable(request: ChatRequest, who: str) -> None:
    """Raise `UpstreamFailure` for what the API of `who` has no word for."""
    for name, means_nothing in _MEANS_NOTHING.items():
        value = getattr(request, name)
        if value is not None and not means_nothing(value):
            raise cannot(name, f"{who} has nothing like it.")
    for name in request.chat_template_kwargs or ():
        if name not in (EFFORT_LEVEL, *EFFORT_SWITCHES):
            raise cannot(f"chat_template_kwargs.{name}", f"{who} has no chat templates.")
    if request.temperature is not None and request.temperature > 1:
        raise cannot("temperature", f"it is {request.temperature:g}, and {who} takes at most 1.")
    if isinstance(request.messages[-1], AssistantMessage) and not request.continue_final_message:
        raise cannot("messages", f"{who} goes on with a last message of the assistant's ('continue_final_message').")


_LIMITS = ("max_tokens", "max_completion_tokens")


def is_passed_on(ask: Ask, call: Call) -> bool:
    """Whether an answer in the client's own API may go to it as it comes: not if somebody has to know what it says."""
    return call.continued is None and (call.form is not None or not (ask.is_stream and ask.api.is_chat))


def chat_of(ask: Ask, call: Call) -> ChatRequest:
    """The chat that is asked for; behind what the client has of its answer already, if it has some, and with the tokens left.

    Raises `ApiError` for a request that is wrong, `UpstreamFailure` for one that is no chat.
    """
    if not ask.api.is_chat:
        raise unspoken(ask.api.value)
    try:
        request = ask.typed()
    except ApiError as error:
        if error.code not in _ONLY_HERE:
            raise
        raise UpstreamFailure(Kind.STATUS, error.message, status=error.status, error=error) from error
    assert isinstance(request, ChatRequest)
    if call.continued is None:
        return request
    messages, begun = list(request.messages), call.continued
    if request.continue_final_message and isinstance(last := messages[-1], AssistantMessage):
        begun = _text(last.content) + call.continued
        messages.pop()
    messages.append(AssistantMessage(content=begun))
    left = {
        name: max(1, limit - call.spent_tokens) for name in _LIMITS if (limit := getattr(request, name)) is not None
    }
    return msgspec.structs.replace(request, messages=messages, continue_final_message=True, **left)


def continued_text(ask: Ask, call: Call) -> dict[str, Any]:
    """What is changed of a request for one completion to have it go on behind what the client has."""
    prompt, limit = msgspec.json.decode(ask.fields["prompt"]), ask.head.max_tokens
    left = {} if limit is None else {"max_tokens": max(1, limit - call.spent_tokens)}
    return {"prompt": f"{prompt}{call.continued}", **left}


def _text(content: str | list[Part] | None) -> str:
    if isinstance(content, list):
        return "".join(part.text for part in content if isinstance(part, TextPart))
    return content or ""


@dataclass(frozen=True, slots=True)
class ReasoningWish:
    """How much reasoning a client asks for: none, of an effort, or of so many tokens; nothing set: as the model does."""

    is_off: bool = False
    is_on: bool = False
    effort: str | None = None
    budget_tokens: int | None = None


def reasoning_wish(request: ChatRequest) -> ReasoningWish:
    """What the request says of reasoning, under any of its names."""
    variables = request.chat_template_kwargs or {}
    switches = [bool(variables[name]) for name in EFFORT_SWITCHES if name in variables]
    effort = request.reasoning_effort or variables.get(EFFORT_LEVEL)
    if effort == "none" or (switches and not any(switches)):
        return ReasoningWish(is_off=True)
    budget = request.thinking_token_budget
    return ReasoningWish(is_on=any(switches) or bool(effort or budget), effort=effort, budget_tokens=budget)


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """The JSON schema that the answer is held to: by the API's own means, or as the arguments of a call that is forced."""

    name: str
    schema: dict[str, Any]
    is_call: bool


def structure(request: ChatRequest, who: str, *, has_formats: bool) -> Structure | None:
    """The form that the answer is to have, None if it is free; raises `UpstreamFailure` for one that cannot be had."""
    wanted = request.wanted_structure
    if wanted is None:
        return None
    if wanted.kind not in ("json_schema", "json_object"):
        raise cannot(wanted.param, f"{who} can hold an answer to JSON only.")
    is_any = wanted.kind == "json_object"
    is_call = is_any or not has_formats
    if is_call and request.tool_use.callable:
        raise cannot(wanted.param, "this model is held to it by a call, and so it cannot have tools besides.")
    asked = request.response_format
    name = asked.named.name if isinstance(asked, JsonSchemaFormat) and not is_call else FORCED_TOOL
    return Structure(name=name, schema={"type": "object"} if is_any else wanted.value, is_call=is_call)
