"""How much a model is to reason: from what a request says to what its template and its engine are told."""

from collections.abc import Mapping
from typing import Any

from servery.engine.chat_template import ChatTemplate
from servery.engine.constraint import Reasoning
from servery.engine.parsing.format import ReasoningFormat, begins_in_reasoning
from servery.wire.chat import EFFORT_LEVEL, EFFORT_SWITCHES, ChatRequest
from servery.wire.errors import unsupported

# What stands for a level that a template does not name.
_NEAREST = {"minimal": "low", "xhigh": "high", "max": "high"}


def template_variables(request: ChatRequest, template: ChatTemplate | None) -> dict[str, Any]:
    """The variables of the request's own, and those by which the template is told of its reasoning effort.

    Raises `ApiError` for an effort that the template cannot be told.
    """
    own = request.chat_template_kwargs or {}
    effort = request.reasoning_effort
    return dict(own) if effort is None or template is None else {**_told(effort, request.effort_param, template), **own}


def reasoning_of(request: ChatRequest, format_: ReasoningFormat | None, prompt_tail: str) -> Reasoning | None:
    """The reasoning that may come before the answer: one that the prompt has begun, one that the model may begin, or none.

    Raises `ApiError` for a budget where there can be none, and for reasoning that is not wanted and comes all the same.
    """
    budget = request.thinking_token_budget
    if format_ is None or request.continue_final_message:
        if budget is not None and request.insists_on_reasoning:
            raise unsupported(request.budget_param, _why_not(request))
        return None
    if begins_in_reasoning(prompt_tail, format_):
        _check_may_begin(request)
        return Reasoning(end=format_.end, budget=budget)
    if prompt_tail.rstrip().endswith(format_.end):
        return None  # the template has switched it off
    return Reasoning(begin=format_.begin, end=format_.end, budget=budget)


def _check_may_begin(request: ChatRequest) -> None:
    variables = request.chat_template_kwargs or {}
    if not request.insists_on_reasoning and any(variables.get(name) is False for name in EFFORT_SWITCHES):
        raise unsupported("thinking", "this model's reasoning cannot be switched off; leave 'thinking' out.")


def _told(effort: str, param: str, template: ChatTemplate) -> Mapping[str, Any]:
    switches = {name: effort not in ("none", "minimal") for name in EFFORT_SWITCHES if template.reads(name)}
    if switches and not any(switches.values()):
        return switches
    if template.reads(EFFORT_LEVEL):
        level = effort if template.names(effort) else _NEAREST.get(effort, effort)
        if level != "none" or template.names(level):
            return {**switches, EFFORT_LEVEL: level}
        raise unsupported(param, "this model's reasoning cannot be switched off; 'low' is the least.")
    if switches:
        return switches
    raise unsupported(param, "the model's chat template knows no levels of reasoning, and no way to switch it off.")


def _why_not(request: ChatRequest) -> str:
    if request.continue_final_message:
        return "an answer that goes on with a message has no reasoning of its own."
    return "this model is not known to reason; --reasoning-format can name how it does."
