"""How many tokens an answer took."""

import msgspec


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """`cached_tokens`: how many prompt tokens the prefix cache supplied."""

    cached_tokens: int = 0


class Usage(msgspec.Struct, frozen=True):
    """Tokens of the prompt and of all completions together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int, cached_tokens: int) -> "Usage":
        """The usage with its sum."""
        total = prompt_tokens + completion_tokens
        return cls(prompt_tokens, completion_tokens, total, PromptTokensDetails(cached_tokens))
