"""How models write reasoning and tool calls: one line of data for each way, found from a model's chat template."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


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
    `hints` are texts in a chat template that give the format away.
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
    def markers(self) -> tuple[str, ...]:
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


def find_tool_format(templates: Iterable[str]) -> ToolFormat | None:
    """The format that a model's chat templates show, None if they show none."""
    text = "\n".join(templates)
    return next((each for each in TOOL_FORMATS.values() if any(hint in text for hint in each.hints)), None)


def find_reasoning_format(templates: Iterable[str]) -> ReasoningFormat | None:
    """The format that a model's chat templates show, None if they show none."""
    text = "\n".join(templates)
    return next((each for each in REASONING_FORMATS.values() if each.end in text), None)


def begins_in_reasoning(prompt: str, reasoning: ReasoningFormat) -> bool:
    """Whether the end of a rendered prompt has begun the reasoning, and not ended it, for the model to go on."""
    return prompt.rstrip().endswith(reasoning.begin)
