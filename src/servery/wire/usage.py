"""How many tokens an answer took."""

import msgspec


class PromptTokensDetails(msgspec.Struct, frozen=True, gc=False):
    """`cached_tokens`: how many prompt tokens the prefix cache supplied."""

    cached_tokens: int = 0


class CompletionTokensDetails(msgspec.Struct, frozen=True, gc=False):
    """`reasoning_tokens`: how many of the generated tokens were reasoning."""

    reasoning_tokens: int = 0


class Speculation(msgspec.Struct, frozen=True):
    """What speculation did for an answer, its completions together: `windows` has how many steps had so many drafts."""

    drafted_tokens: int
    accepted_tokens: int
    windows: dict[int, int]


class Debug(msgspec.Struct, frozen=True):
    """What a request with `debug` is told besides."""

    speculation: Speculation


class Usage(msgspec.Struct, frozen=True):
    """Tokens of the prompt and of all completions together; `servery` for a request with `debug`."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails = CompletionTokensDetails()
    servery: Debug | msgspec.UnsetType = msgspec.UNSET

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int, cached_tokens: int, reasoning_tokens: int = 0) -> "Usage":
        """The usage with its sum."""
        return cls(
            prompt_tokens,
            completion_tokens,
            prompt_tokens + completion_tokens,
            PromptTokensDetails(cached_tokens),
            CompletionTokensDetails(reasoning_tokens),
        )
