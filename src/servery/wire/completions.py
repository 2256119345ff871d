"""`POST /v1/completions`: the request of the legacy API, whose prompt is text or tokens."""

from typing import Any

import msgspec

from servery.wire.body import decode
from servery.wire.errors import invalid, unsupported
from servery.wire.sampling import Generation, check_unsupported
from servery.wire.texts import Texts, check_texts, count_texts, split_texts

MAX_PROMPTS = 128
MAX_COMPLETIONS = 128  # of all prompts together: what one chat may ask for by `n`
DEFAULT_MAX_TOKENS = 16

_UNSUPPORTED = {"suffix": "this model cannot fill in the middle."}


class CompletionRequest(Generation, frozen=True, kw_only=True):
    """A text to be continued; `prompt` is a string, token ids, or a list of either.

    `add_special_tokens` (vLLM's, default true) puts the tokenizer's own around a text.
    With `echo` the prompt comes first in the answer, and `max_tokens` may be 0 to have only the prompt scored.
    """

    prompt: Texts
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | None = None
    suffix: Any = None
    add_special_tokens: bool | None = None

    @property
    def default_max_tokens(self) -> int:
        """The most tokens to generate where the client gives no limit."""
        return DEFAULT_MAX_TOKENS

    @property
    def prompts(self) -> list[str | list[int]]:
        """Every prompt on its own."""
        return split_texts(self.prompt)

    def check(self) -> None:
        """Raise `ApiError` for what no type can express and for what this server cannot do."""
        super().check()
        check_unsupported(self, _UNSUPPORTED)
        check_texts(self.prompt, "prompt", MAX_PROMPTS)
        prompts, n = count_texts(self.prompt), self.n or 1
        if prompts > 1 and prompts * n > MAX_COMPLETIONS:
            asked = f"{prompts} prompts with 'n' {n} are {prompts * n} completions"
            raise invalid(f"{asked}; at most {MAX_COMPLETIONS} are allowed in one request.", "n")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise unsupported("best_of", f"it must equal 'n' ({self.n or 1}); ask for more and choose from them.")


_DECODER = msgspec.json.Decoder(CompletionRequest)


def decode_completion(body: bytes) -> CompletionRequest:
    """A checked request; raises `ApiError`."""
    request = decode(body, _DECODER)
    request.check()
    return request
