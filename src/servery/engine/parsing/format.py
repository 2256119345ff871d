"""How models write reasoning and tool calls: one line of data for each way, found from a model's chat template."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

AUTO, NONE = "auto", "none"

F = TypeVar("F")


class Body(Enum):
    """What stands where calls are."""

    OBJECT = "a JSON object with the function's name and its arguments"
    OBJECTS = "a JSON list of such objects, or NAME, a separator, and the arguments"
    PYTHON = "a Python list of calls with keyword arguments"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """A way of writing tool calls.

    `begin` leads calls; empty where a message that consists of calls begins with them at once, perhaps after `lead`.
    `end` follows each call, `between` stands between two, `separator` between a name and its arguments.
    `hints` are texts in a chat template that give the format away. `short_ids`: its templates take calls' ids of nine
    letters and digits only.
    """

    name: str
    families: str
    body: Body
    begin: str = ""
    end: str = ""
    lead: str = ""
    between: str = ""
    separator: str = ""
    hints: tuple[str, ...] = ()
    short_ids: bool = False

    @property
    def markers(self) -> tuple[str, ...]:
        """The texts that may be special tokens of the vocabulary, and must be seen all the same."""
        return tuple(text for text in (self.begin, self.end, self.lead, self.separator) if text)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningFormat:
    """Reasoning stands between `begin` and `end`, before anything else."""

    name: str
    begin: str
    end: str

    @property
    def markers(self) -> tuple[str, str]:
        """The texts that may be special tokens of the vocabulary, and must be seen all the same."""
        return (self.begin, self.end)


TOOL_FORMATS = {
    each.name: each
    for each in (
        ToolFormat(
            name="hermes",
            families="Hermes, Qwen 2.5 and 3, SmolLM3, Granite 4",
            body=Body.OBJECT,
            begin="<tool_call>",
            end="</tool_call>",
            hints=("<tool_call>",),
        ),
        ToolFormat(
            name="mistral",
            families="Mistral, Mixtral, Ministral",
            body=Body.OBJECTS,
            begin="[TOOL_CALLS]",
            separator="[ARGS]",
            hints=("[TOOL_CALLS]",),
            short_ids=True,
        ),
        ToolFormat(
            name="pythonic",
            families="Llama 3.2 and 4 in Python style, ToolACE",
            body=Body.PYTHON,
            lead="<|python_start|>",
            end="<|python_end|>",
            hints=("[func_name1(", "<|python_start|>"),
        ),
        ToolFormat(
            name="llama3",
            families="Llama 3.1, 3.2, 3.3",
            body=Body.OBJECT,
            lead="<|python_tag|>",
            between=";",
            hints=("<|python_tag|>", "Environment: ipython"),
        ),
    )
}

REASONING_FORMATS = {
    each.name: each
    for each in (
        ReasoningFormat(name="think", begin="<think>", end="</think>"),
        ReasoningFormat(name="mistral", begin="[THINK]", end="[/THINK]"),
        ReasoningFormat(name="seed", begin="<seed:think>", end="</seed:think>"),
    )
}


@dataclass(frozen=True, slots=True)
class MessageFormats:
    """How one model writes its messages; None for what it is not known to do."""

    tools: ToolFormat | None = None
    reasoning: ReasoningFormat | None = None

    @property
    def markers(self) -> tuple[str, ...]:
        """The texts that may be special tokens of the vocabulary, and must be seen all the same."""
        return tuple(marker for each in (self.tools, self.reasoning) if each is not None for marker in each.markers)


def find_formats(templates: Iterable[str], tool_format: str = AUTO, reasoning_format: str = AUTO) -> MessageFormats:
    """The formats by name; for "auto" those that a model's chat templates show, for "none" none.

    Raises `ValueError` with the known names for any other.
    """
    text = "\n".join(templates)
    tools = [each for each in TOOL_FORMATS.values() if any(hint in text for hint in each.hints)]
    reasoning = [each for each in REASONING_FORMATS.values() if each.begin in text or each.end in text]
    return MessageFormats(
        _chosen("tool format", tool_format, TOOL_FORMATS, tools),
        _chosen("reasoning format", reasoning_format, REASONING_FORMATS, reasoning),
    )


def begins_in_reasoning(prompt: str, reasoning: ReasoningFormat | None) -> bool:
    """Whether the end of a rendered prompt has begun the reasoning, for the model to go on."""
    return reasoning is not None and prompt.rstrip().endswith(reasoning.begin)


def _chosen(what: str, name: str, known: Mapping[str, F], shown: Sequence[F]) -> F | None:
    if name == AUTO:
        return shown[0] if shown else None
    if name == NONE:
        return None
    if name not in known:
        *others, last = known
        raise ValueError(f"there is no {what} {name!r}; use {', '.join((AUTO, NONE, *others))} or {last}.")
    return known[name]
