"""How one chat is answered by one model: what is reasoning, what calls look like, and what the answer is held to."""

from collections.abc import Mapping, Sequence
from typing import Any

from servery.engine.constraint import Constraint, json_schema
from servery.engine.parsing.format import TOOL_FORMATS, MessageFormats, ToolFormat, begins_in_reasoning
from servery.engine.parsing.message_parser import MessageParser
from servery.engine.structure.calls import Function, Otherwise, calls_constraint
from servery.engine.structure.door import Door
from servery.engine.tokenizer import Tokenizer
from servery.upstream.message_writer import MessageWriter
from servery.upstream.reasoning import reasoning_of
from servery.upstream.structure import constraint_errors, constraint_for, document_schema
from servery.wire.chat import ChatRequest
from servery.wire.errors import unsupported
from servery.wire.structure import Wanted

# How much of a prompt's end is looked at for reasoning that it has begun: the longest marker, a few times over.
_TAIL_TOKENS = 32
# How forced calls are written by models whose own way is not known: as nothing but JSON.
_PLAIN = TOOL_FORMATS["llama3"]


class ChatPlan:
    """What follows from a request, the model's formats and the end of its prompt.

    `param` is what the client is told when its constraint fails after all, None without one. Raises `ApiError` for a
    budget of reasoning where there is none.
    """

    def __init__(
        self, request: ChatRequest, formats: MessageFormats, tokenizer: Tokenizer, prompt: Sequence[int]
    ) -> None:
        self._request = request
        self._use = request.tool_use
        self._formats = formats
        self._tokenizer = tokenizer
        self._tail = tokenizer.decode(prompt[-_TAIL_TOKENS:], skip_special_tokens=False)
        self._reasoning = reasoning_of(request, formats.reasoning, self._tail)
        wanted = request.wanted_structure
        document = None if wanted is None else document_schema(wanted)
        self._is_held_to_calls = self._holds_to_calls(wanted, document)
        self.param = "tools" if self._is_held_to_calls else None if wanted is None else wanted.param

    async def constraint(self, door: Door) -> Constraint | None:
        """What the answer is held to; raises `ApiError` for what cannot be enforced, naming the client's field."""
        wanted = self._request.wanted_structure
        if not self._is_held_to_calls:
            return await constraint_for(wanted, door, self._reasoning)
        if self._notation is None:
            raise unsupported("tools", "it is not known how this model writes calls; --tool-format can name it.")
        otherwise = None if self._use.is_forced else await self._otherwise(wanted, door)
        functions = [await self._function(at, door) for at in range(len(self._use.callable))]
        with constraint_errors("tools"):
            constraint = calls_constraint(
                functions, self._notation, self._added, most=1 if self._use.is_single else None, otherwise=otherwise,
                reasoning=self._reasoning,
            )  # fmt: skip
            await door.check(constraint)
        return constraint

    def writers(self) -> list[MessageWriter]:
        """One for each completion. An answer that is held to a form without a way around it by calls has none."""
        is_of_form = self._request.wanted_structure is not None and not self._is_held_to_calls
        tools = self._notation if self._use.callable and not is_of_form else None
        reasoning = None if self._request.continue_final_message else self._formats.reasoning
        return [
            MessageWriter(
                MessageParser(
                    reasoning,
                    tools,
                    names=self._use.names,
                    begins_in_reasoning=begins_in_reasoning(self._tail, reasoning),
                ),
                self._tokenizer if self._request.logprobs else None,
                most_calls=1 if self._use.is_single else None,
                short_ids=tools is not None and tools.short_ids,
                id_prefix=self._request.call_id_prefix,
                token_bytes=self._tokenizer.token_bytes,
            )
            for _ in range(self._request.n or 1)
        ]

    @property
    def _notation(self) -> ToolFormat | None:
        return _PLAIN if self._formats.tools is None and self._use.is_forced else self._formats.tools

    @property
    def _added(self) -> Mapping[str, int]:
        """The notation's markers that are tokens of their own."""
        markers = () if self._notation is None else self._notation.markers
        return {name: self._tokenizer.added_names[name] for name in markers if name in self._tokenizer.added_names}

    def _holds_to_calls(self, wanted: Wanted | None, document: Mapping[str, Any] | None) -> bool:
        """Whether the constraint is one of calls: they are forced, or must be right, or are the way around a document."""
        if self._use.is_forced or (wanted is None and self._use.is_kept_to):
            return True
        return document is not None and bool(self._use.callable) and self._formats.tools is not None

    async def _otherwise(self, wanted: Wanted | None, door: Door) -> Otherwise:
        if wanted is None:
            return Otherwise(reserved=() if self._formats.reasoning is None else (self._formats.reasoning.begin,))
        await constraint_for(wanted, door)
        return Otherwise(document=document_schema(wanted))

    async def _function(self, number: int, door: Door) -> Function:
        at, tool = self._use.callable[number]
        declared = tool.function
        is_kept_to = self._use.is_forced or bool(declared.strict)
        function = Function(declared.name, declared.parameters, bool(declared.strict), is_kept_to)
        if is_kept_to:
            with constraint_errors(self._request.function_param(at, "parameters")):
                await door.check(json_schema(function.schema))
        return function
