"""Renders messages with a model's own Jinja chat template, as `transformers` would, in a sandbox.

Templates come with a checkpoint and are not trusted: they run in Jinja's immutable sandbox. What clients write is not
trusted either: `ChatTemplate.encode` never lets it become a control token (see `control_tokens`).
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from servery.engine.control_tokens import ControlTokens
from servery.engine.errors import InvalidRequest, LoadError
from servery.engine.gguf.files import find_gguf
from servery.engine.gguf.text import gguf_templates
from servery.engine.json_fields import read_optional_json
from servery.engine.tokenizer import Tokenizer, check_text, read_special_tokens

# What a template can raise by itself: Jinja's own errors, and Python's when it meets a shape it did not expect.
_TEMPLATE_ERRORS = (
    jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError,
)  # fmt: skip


class ChatTemplate:
    """A model's chat template, or several by name: `tool_use` serves requests with tools, `default` all others."""

    def __init__(
        self,
        templates: str | Mapping[str, str],
        special_tokens: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """`special_tokens` (`bos_token` ...) and `now` are what the templates can use.

        Raises `LoadError` if a template is not valid Jinja.
        """
        sources = {"default": templates} if isinstance(templates, str) else dict(templates)
        if "default" not in sources:
            raise LoadError(f"The chat templates are named {sorted(sources)}; one must be named 'default'.")
        self.sources = sources
        self._special_tokens = dict(special_tokens or {})
        environment = _environment(now)
        self._compiled = {name: _compile(environment, name, source) for name, source in sources.items()}
        self._variables = frozenset().union(
            *(meta.find_undeclared_variables(environment.parse(source)) for source in sources.values())
        )
        self._reads_parts = {name: self._accepts_parts(name) for name in sources}
        self._control_tokens: tuple[Tokenizer, ControlTokens] | None = None
        self._lock = threading.Lock()

    @classmethod
    def load(cls, path: str | Path) -> "ChatTemplate | None":
        """The template of a checkpoint's folder or GGUF file, None if it has none (a base model).

        Looks for chat_template.jinja (and additional_chat_templates/*.jinja), then in tokenizer_config.json.
        """
        folder = Path(path)
        file = find_gguf(folder)
        templates, special_tokens = (
            (_read_templates(folder), read_special_tokens(folder)) if file is None else gguf_templates(file)
        )
        return cls(templates, special_tokens) if templates else None

    @property
    def shows_tools(self) -> bool:
        """Whether any of the templates does something with tools."""
        return "tool_use" in self.sources or any("tools" in source for source in self.sources.values())

    def reads(self, variable: str) -> bool:
        """Whether any of the templates does something with a variable that it is given."""
        return variable in self._variables

    def names(self, value: str) -> bool:
        """Whether any of the templates has `value` as a string of its own: one that it knows what to do with."""
        return any(f"'{value}'" in source or f'"{value}"' in source for source in self.sources.values())

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt text for OpenAI-style `messages` and `tools`; `variables` go to the template as they are.

        Text parts of a message's content are joined by newlines where the template expects a string. Raises
        `InvalidRequest` with the template's own words when it refuses the messages.
        """
        name = self._name_for(tools)
        return self._render(
            name, _normalised(messages, self._reads_parts[name]), tools, add_generation_prompt, variables
        )

    def encode(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        *,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> list[int]:
        """The prompt's token ids; control tokens that clients wrote into messages or tools are encoded as plain text.

        With `continue_final_message` the prompt ends where the last message's text does, for the model to go on there.
        """
        name = self._name_for(tools)
        normalised = _normalised(messages, self._reads_parts[name])
        control = self._control_tokens_of(tokenizer)
        hidden = [_hide(control, message) for message in normalised]
        others = {"tools": tools, "variables": variables}
        hidden_others = control.hide(others, is_assistant=False)
        begins_message = add_generation_prompt and not continue_final_message
        text = self._render(name, hidden, hidden_others["tools"], begins_message, hidden_others["variables"])
        if continue_final_message:
            text = _cut_after(text, hidden[-1])
        if hidden == normalised and hidden_others == others:
            return tokenizer.encode(text, add_special_tokens=False)
        check_text(text)
        return control.encode(text)

    def _name_for(self, tools: Sequence[Mapping[str, Any]] | None) -> str:
        return "tool_use" if tools and "tool_use" in self.sources else "default"

    def _render(
        self,
        name: str,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
        variables: Mapping[str, Any],
    ) -> str:
        context = {
            **self._special_tokens, **variables,
            "messages": messages, "tools": tools or None, "add_generation_prompt": add_generation_prompt,
        }  # fmt: skip
        try:
            return self._compiled[name].render(context)
        except _TEMPLATE_ERRORS as error:
            raise InvalidRequest(f"The model's chat template refuses these messages: {error}", "messages") from error

    def _accepts_parts(self, name: str) -> bool:
        """Whether the template prints the texts of a content given as a list of parts; found out by trying."""
        probe = [{"role": "user", "content": [{"type": "text", "text": "probe"}]}]
        try:
            text = self._render(name, probe, None, True, {})
        except InvalidRequest:
            return False
        return "probe" in text and "'type'" not in text and '"type"' not in text

    def _control_tokens_of(self, tokenizer: Tokenizer) -> ControlTokens:
        with self._lock:
            if self._control_tokens is None or self._control_tokens[0] is not tokenizer:
                added = tokenizer.backend.get_added_tokens_decoder().values()
                special = {token.content for token in added if token.special}
                named = {token.content for token in added if any(token.content in s for s in self.sources.values())}
                self._control_tokens = (tokenizer, ControlTokens(tokenizer.backend, special, named - special))
            return self._control_tokens[1]


def _hide(control: ControlTokens, message: Mapping[str, Any]) -> Any:
    """The message without control tokens, those included that a client cut in two and spread over text parts."""
    content = message["content"]
    if isinstance(content, list):
        joined = "".join(part["text"] for part in content)
        if control.are_in(joined):
            message = {**message, "content": [{"type": "text", "text": joined}]}
    return control.hide(message, is_assistant=message["role"] == "assistant")


def _cut_after(text: str, message: Mapping[str, Any]) -> str:
    """A rendered prompt up to the end of its last message's text; raises `InvalidRequest` if that is not in it."""
    content = message["content"]
    last = (content if isinstance(content, str) else content[-1]["text"]).strip()
    at = text.rfind(last)
    if not last or at < 0:
        raise InvalidRequest(
            "The last message cannot be continued: its text is empty, or the model's chat template changes it.",
            "continue_final_message",
        )
    return text[: at + len(last)]


def no_chat_template(model: str) -> InvalidRequest:
    """The error for a chat request to a model without a template."""
    return InvalidRequest(
        f"The model {model!r} has no chat template, so it cannot take messages; send a prompt to /v1/completions, or "
        "put a chat_template.jinja into the model's folder."
    )


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`, which marks the assistant's words for training: here only its body."""

    tags = {"generation"}  # noqa: RUF012 (Jinja declares it as it is)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment(now: Callable[[], datetime]) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda pattern: now().strftime(pattern)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as templates expect it: unlike Jinja's own filter, without HTML escapes and in the keys' own order."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _compile(environment: jinja2.Environment, name: str, source: str) -> jinja2.Template:
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise LoadError(
            f"The chat template {name!r} is not valid Jinja, line {error.lineno}: {error.message}"
        ) from error


def _read_templates(folder: Path) -> dict[str, str]:
    templates: dict[str, str] = {}
    declared = read_optional_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(declared, str):
        templates["default"] = declared
    elif isinstance(declared, list):
        templates.update({entry["name"]: entry["template"] for entry in declared})
    files = {"default": folder / "chat_template.jinja"}
    files |= {file.stem: file for file in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    for name, file in files.items():
        if file.is_file():
            templates[name] = file.read_text(encoding="utf-8")
    return templates


def _normalised(messages: Sequence[Mapping[str, Any]], reads_parts: bool) -> list[dict[str, Any]]:
    """Messages in the shape that templates are written for; raises `InvalidRequest` naming what cannot be."""
    if not messages:
        raise InvalidRequest("messages is empty; send at least one message.", "messages")
    return [_normalised_message(message, f"messages[{i}]", reads_parts) for i, message in enumerate(messages)]


def _normalised_message(message: Any, where: str, reads_parts: bool) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise InvalidRequest(f"{where} needs a role, a string.", where)
    content = message.get("content")
    if content is None:
        content = ""  # as with an assistant's message that only calls tools
    elif not isinstance(content, str):
        texts = _texts(content, f"{where}.content")
        content = [{"type": "text", "text": text} for text in texts] if reads_parts else "\n".join(texts)
    normalised = {**message, "content": content}
    if message.get("tool_calls"):
        normalised["tool_calls"] = [
            _with_parsed_arguments(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(message["tool_calls"])
        ]
    return normalised


def _texts(content: Any, where: str) -> list[str]:
    """The texts of a content given in parts."""
    if not isinstance(content, Sequence):
        raise InvalidRequest(f"{where} is {type(content).__name__}; it must be a string or a list of parts.", where)
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise InvalidRequest(
                f"{where}[{i}] is a part of type {kind!r}; this model reads parts of type 'text' with a string in "
                "'text' only.",
                f"{where}[{i}]",
            )
    return [part["text"] for part in content]


def _with_parsed_arguments(call: Any, where: str) -> dict[str, Any]:
    """A tool call whose arguments are an object: the API carries them as JSON text, templates print them as JSON."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise InvalidRequest(f"{where} needs a function, an object with name and arguments.", where)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            raise InvalidRequest(f"{where}.function.arguments is not JSON: {error}.", where) from error
    return {**call, "function": {**function, "arguments": arguments}}
