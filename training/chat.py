"""The chat format: one special token opens a turn, ``<|end|>`` closes it.

    <|system|>Be brief.<|end|><|user|>Hello!<|end|><|assistant|>Hello! How can I help you?<|end|>

The template below and ``segments`` describe the same format, once for every runtime and once for training.
User text can never open a turn: the template writes ``<|`` of a message as ``< |``.
"""

from collections.abc import Iterator
from typing import Any

from training.mix import Dialogue
from training.tasks.scene import Tool

PAD, SYSTEM, USER, ASSISTANT, TOOL, END = "<|pad|> <|system|> <|user|> <|assistant|> <|tool|> <|end|>".split()
SPECIALS = (PAD, SYSTEM, USER, ASSISTANT, TOOL, END)
_OPENS = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT, "tool": TOOL}

TEMPLATE = """\
{%- macro text(content) -%}
  {%- if content is string -%}
    {{- content | replace('<|', '< |') -}}
  {%- elif content is iterable -%}
    {%- for part in content if part.text is defined -%}{{- part.text | replace('<|', '< |') -}}{%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- set first = 1 if messages and messages[0].role in ('system', 'developer') else 0 -%}
{%- if first or tools -%}
  {{- '<|system|>' -}}
  {%- if first -%}{{- text(messages[0].content) -}}{%- endif -%}
  {%- if tools -%}
    {%- if first -%}{{- '\\n' -}}{%- endif -%}
    {{- 'Tools:' -}}
    {%- for tool in tools -%}
      {%- set function = tool.function if tool.function is defined else tool -%}
      {%- set schema = function.parameters if function.parameters else {} -%}
      {{- '\\n- ' ~ function.name ~ '(' -}}
      {%- for name, value in (schema.properties or {}).items() -%}
        {{- name ~ ': ' ~ (value.type if value.type is string else 'any') -}}{{- ', ' if not loop.last -}}
      {%- endfor -%}
      {{- ')' -}}
      {%- if function.description -%}{{- ': ' ~ text(function.description) -}}{%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {{- '<|end|>' -}}
{%- endif -%}
{%- for message in messages[first:] -%}
  {%- if message.role in ('system', 'developer') -%}
    {{- '<|system|>' ~ text(message.content) ~ '<|end|>' -}}
  {%- elif message.role == 'assistant' -%}
    {{- '<|assistant|>' ~ text(message.content) -}}
    {%- for call in message.tool_calls or [] -%}
      {%- set function = call.function if call.function is defined else call -%}
      {{- '\\n' if message.content or not loop.first -}}
      {{- '<tool_call>\\n{"name": "' ~ function.name ~ '", "arguments": ' -}}
      {{- function.arguments if function.arguments is string else function.arguments | tojson -}}
      {{- '}\\n</tool_call>' -}}
    {%- endfor -%}
    {{- '<|end|>' -}}
  {%- elif message.role in ('tool', 'function') -%}
    {{- '<|tool|>' ~ text(message.content) ~ '<|end|>' -}}
  {%- else -%}
    {{- '<|user|>' ~ text(message.content) ~ '<|end|>' -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def tools_text(tools: tuple[Tool, ...]) -> str:
    """The offered functions, one line each, as the template writes them."""
    lines = ["Tools:"]
    for tool in tools:
        function = tool["function"]
        arguments = ", ".join(f"{name}: {v['type']}" for name, v in function["parameters"]["properties"].items())
        lines.append(f"- {function['name']}({arguments}): {function['description']}")
    return "\n".join(lines)


def segments(dialogue: Dialogue) -> Iterator[tuple[str, str]]:
    """The opening special token and the text of each turn, in order."""
    system = "\n".join(part for part in (dialogue.system, tools_text(dialogue.tools) if dialogue.tools else "") if part)
    if system:
        yield SYSTEM, system
    for turn in dialogue.turns:
        yield _OPENS[turn.role], turn.question
        yield ASSISTANT, turn.answer


def messages(dialogue: Dialogue) -> list[dict[str, Any]]:
    """The conversation as chat-completions messages."""
    found = [{"role": "system", "content": dialogue.system}] if dialogue.system else []
    for turn in dialogue.turns:
        found += [{"role": turn.role, "content": turn.question}, {"role": "assistant", "content": turn.answer}]
    return found
