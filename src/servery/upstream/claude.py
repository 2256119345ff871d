"""What a Claude model can do, by the version in its name, at Anthropic's as at Bedrock."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from servery.upstream.refusal import cannot
from servery.upstream.translatable import reasoning_wish
from servery.upstream.turns import Conversation, Result
from servery.wire.chat import ChatRequest

_VERSION = re.compile(r"claude-(?:[a-z]+-)?(\d+)(?:[-.](\d{1,2})(?!\d))?")
_NEWEST = (99, 0)
_LEAST_BUDGET_TOKENS = 1024
_BUDGETS = {"minimal": 1_024, "low": 2_048, "medium": 8_192, "high": 16_384, "xhigh": 24_576, "max": 31_999}


@dataclass(frozen=True, slots=True)
class Abilities:
    """`thinks`: how much it reasons is left to it and guided by an effort, bounded by a budget of tokens, or never.

    `max_tokens` is what is asked for where the client sets no limit and the API wants one. `has_formats`: answers can be
    held to a JSON schema.
    """

    thinks: Literal["adaptively", "in budget", "never"]
    max_tokens: int
    has_formats: bool


def is_claude(model: str) -> bool:
    """Whether a model's name says that it is one of Anthropic's."""
    return "claude" in model


def abilities(model: str) -> Abilities:
    """What Anthropic's documentation says of the version in `model`; without a version, what it says of the newest."""
    found = _VERSION.search(model)
    version = (int(found[1]), int(found[2] or 0)) if found else _NEWEST
    if version < (3, 5):
        return Abilities("never", 4_096, has_formats=False)
    if version < (4, 0):
        return Abilities("in budget" if version >= (3, 7) else "never", 8_192, has_formats=False)
    return Abilities("adaptively" if version >= (4, 6) else "in budget", 32_000, has_formats=version >= (4, 5))


def effort(request: ChatRequest, can: Abilities) -> str | None:
    """The level of effort that comes closest to what is wished, None where none is or the model knows none."""
    wish = reasoning_wish(request)
    if can.thinks != "adaptively":
        return None
    if wish.effort is not None:
        return "low" if wish.effort == "minimal" else wish.effort
    if wish.budget_tokens is None:
        return None
    return next((level for level in ("low", "medium") if wish.budget_tokens <= _BUDGETS[level]), "high")


def thinking(request: ChatRequest, can: Abilities, said: Conversation) -> dict[str, Any] | None:
    """What is said of reasoning, None where it is left to the model.

    Within a budget the answer to a tool's result can be reasoned only after the signed reasoning that led to the call,
    which did not come back with it.
    """
    wish = reasoning_wish(request)
    if can.thinks == "never":
        if wish.budget_tokens is not None and request.insists_on_reasoning:
            raise cannot(request.budget_param, "this model does not reason.")
        return None
    if wish.is_off:
        return {"type": "disabled"}
    if not wish.is_on:
        return None
    if can.thinks == "adaptively":
        return {"type": "adaptive", "display": "summarized"}
    room = (request.token_limit or can.max_tokens) - 1
    if room < _LEAST_BUDGET_TOKENS or _is_after_result(said):
        return None
    budget = wish.budget_tokens or _BUDGETS[wish.effort or "medium"]
    return {"type": "enabled", "budget_tokens": max(_LEAST_BUDGET_TOKENS, min(budget, room))}


def _is_after_result(said: Conversation) -> bool:
    return bool(said.turns) and any(isinstance(block, Result) for block in said.turns[-1].blocks)
