"""From messages and texts to the tokens that the engine is given, and whether they fit."""

import asyncio
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from servery.engine.chat_template import ChatTemplate, no_chat_template
from servery.engine.tokenizer import Tokenizer
from servery.upstream.engine_errors import engine_errors
from servery.upstream.logprobs import token_text
from servery.upstream.sampling import check_token_ids
from servery.wire.chat import Message, check_text_only, template_messages
from servery.wire.errors import context_length_exceeded, invalid
from servery.wire.tools import Tool, template_tools

# Longer texts and lists of tokens are worked on in a thread: about a millisecond, more than the event loop should stand
# still.
_THREAD_CHARS = 4_000
_THREAD_TOKENS = 1_000

T = TypeVar("T")


class PromptEncoder:
    """A model's tokenizer and chat template."""

    def __init__(self, model: str, tokenizer: Tokenizer, template: ChatTemplate | None, vocab_size: int) -> None:
        self._model = model
        self.template = template
        self._vocab_size = vocab_size
        self.tokenizer = tokenizer
        # One at a time: many long texts at once would take the cores from the loop and from those who wait for tokens.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode")

    @property
    def shows_tools(self) -> bool:
        """Whether the chat template shows tools to the model."""
        return self.template is not None and self.template.shows_tools

    async def chat(
        self,
        messages: list[Message],
        tools: Sequence[Tool],
        *,
        add_generation_prompt: bool | None,
        variables: dict[str, Any] | None,
        continue_final_message: bool = False,
    ) -> list[int]:
        """The tokens of a chat as the model's template renders it.

        Raises `ApiError` for what the template refuses, and for images.
        """
        check_text_only(messages)
        with engine_errors("messages"):
            if self.template is None:
                raise no_chat_template(self._model)
            rendered = template_messages(messages)
            encode = functools.partial(
                self.template.encode,
                self.tokenizer,
                rendered,
                template_tools(tools) or None,
                add_generation_prompt is not False,
                continue_final_message=continue_final_message,
                **(variables or {}),
            )
            token_ids = await self._in_thread_if(_size(rendered) > _THREAD_CHARS or bool(tools), encode)
        if not token_ids:
            raise invalid("The model's chat template turns these messages into nothing.", "messages")
        return token_ids

    async def text(self, prompt: str | list[int], param: str, *, add_special_tokens: bool = True) -> list[int]:
        """The tokens of a text, or token ids as they are once checked; raises `ApiError`."""
        if isinstance(prompt, list):
            check_token_ids(prompt, param, self._vocab_size)
            return prompt
        with engine_errors(param):
            encode = functools.partial(self.tokenizer.encode, prompt, add_special_tokens)
            token_ids = await self._in_thread_if(len(prompt) > _THREAD_CHARS, encode)
        if not token_ids:
            raise invalid(f"'{param}' has no token in this model's vocabulary.", param)
        return token_ids

    async def decode(self, token_ids: list[int]) -> str:
        """The text of tokens, special ones included."""
        decode = functools.partial(self.tokenizer.decode, token_ids, skip_special_tokens=False)
        return await self._in_thread_if(len(token_ids) > _THREAD_TOKENS, decode)

    async def token_texts(self, token_ids: list[int]) -> list[str]:
        """Each token by itself; U+FFFD for bytes that are no character by themselves."""
        return await self._in_thread_if(len(token_ids) > _THREAD_TOKENS, functools.partial(self._texts, token_ids))

    async def _in_thread_if(self, is_long: bool, work: "functools.partial[T]") -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work) if is_long else work()

    def _texts(self, token_ids: list[int]) -> list[str]:
        return [token_text(self.tokenizer, token_id) for token_id in token_ids]


def check_fits(prompt_tokens: int, max_tokens: int | None, limit: int, param: str) -> None:
    """Raise `ApiError` unless the prompt, at least one token and all that were asked for fit into the context."""
    if prompt_tokens >= limit:
        raise context_length_exceeded(limit, prompt_tokens, None, param)
    if max_tokens is not None and prompt_tokens + max_tokens > limit:
        raise context_length_exceeded(limit, prompt_tokens, max_tokens, param)


def _size(messages: Sequence[dict[str, Any]]) -> int:
    """About how many characters there are to encode."""
    return sum(len(str(message.get("content", ""))) for message in messages) + 100 * len(messages)
