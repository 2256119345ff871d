"""What placements know of a request's prompt, made once for each request."""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

from servery.gateway.dispatch.prefixes import Prefix, cached_tokens, prompt_prefix
from servery.gateway.dispatch.prompt_size import input_tokens
from servery.upstream.ask import Ask


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's beginning, by which caches know it, and about how many tokens it has in all."""

    prefix: Prefix
    tokens: int

    def new_tokens(self, matched_blocks: int) -> int:
        """About how many tokens are to be computed where the first blocks are known; the last one always is."""
        return max(1, self.tokens - cached_tokens(matched_blocks))


class Prompts:
    """The prompts of the requests under way."""

    def __init__(self) -> None:
        self._made: WeakKeyDictionary[Ask, Prompt] = WeakKeyDictionary()

    def of(self, ask: Ask) -> Prompt:
        """The request's prompt. Prompts of different keys never share a beginning: caches are salted by them."""
        found = self._made.get(ask)
        if found is None:
            found = Prompt(prompt_prefix(ask.fields, ask.owner), input_tokens(ask))
            self._made[ask] = found
        return found
