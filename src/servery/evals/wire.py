"""Tasks as requests of the OpenAI API, and its answers as ours; greedy, so that a run can be repeated."""

from typing import Any

import msgspec

from servery.bench.errors import Malformed
from servery.evals.answer import Answer
from servery.evals.task import Task

CHAT, COMPLETIONS = "chat/completions", "completions"


class _ToolCall(msgspec.Struct):
    function: dict[str, Any]


class _Message(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Body(msgspec.Struct):
    choices: list[_Choice]


def request(task: Task) -> tuple[str, dict[str, Any]]:
    """The endpoint and the body of the request that asks a task."""
    body: dict[str, Any] = {"max_tokens": task.max_tokens, "temperature": 0}
    if task.stop:
        body["stop"] = task.stop
    if task.is_chat:
        tools = {"tools": task.tools} if task.tools else {}
        return CHAT, {"messages": task.messages, **tools, **body}
    return COMPLETIONS, {"prompt": task.prompt, **body}


def read_answer(data: Any, task: Task) -> Answer:
    """The first choice of an answer. Raises `Malformed` if it has none."""
    try:
        found = msgspec.convert(data, _Body)
        chosen = found.choices[0]
    except (msgspec.ValidationError, IndexError) as error:
        raise Malformed(f"The answer to task {task.id!r} is not the API's: {error}") from None
    text = _message_text(chosen.message) if task.is_chat and chosen.message else chosen.text
    return Answer(text or "", chosen.finish_reason)


def _message_text(message: _Message) -> str:
    """What a model wrote; calls that the server has parsed are written out again as the Qwen family does."""
    calls = [_call_text(call.function) for call in message.tool_calls or []]
    return "\n".join([*filter(None, [message.content]), *calls])


def _call_text(function: dict[str, Any]) -> str:
    return f'<tool_call>\n{{"name": "{function.get("name")}", "arguments": {function.get("arguments")}}}\n</tool_call>'
