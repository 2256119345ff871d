"""Log probabilities of tokens in the two shapes of the API."""

from collections.abc import Iterable, Sequence

from servery.engine.request import TokenLogprobs
from servery.engine.tokenizer import Tokenizer
from servery.wire.completion_answer import CompletionLogprobs
from servery.wire.message import TokenLogprob, TopLogprob

# JSON has no -Infinity; the API's own stand-in for a token that is as good as impossible.
IMPOSSIBLE = -9999.0


def token_logprobs(tokenizer: Tokenizer, logprobs: Iterable[TokenLogprobs]) -> list[TokenLogprob]:
    """One entry per token, with its bytes, which may be a part of a character."""
    return [
        TokenLogprob(
            token_text(tokenizer, of.token_id),
            max(of.logprob, IMPOSSIBLE),
            list(tokenizer.token_bytes(of.token_id)),
            [_top(tokenizer, token_id, logprob) for token_id, logprob in of.top],
        )
        for of in logprobs
    ]


def completion_logprobs(
    tokenizer: Tokenizer, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs | None], offset: int
) -> CompletionLogprobs:
    """Columns over the tokens; `offset` is where in the choice's text the first of them begins, in characters."""
    texts = [token_text(tokenizer, token_id) for token_id in token_ids]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return CompletionLogprobs(
        tokens=texts,
        token_logprobs=[None if of is None else max(of.logprob, IMPOSSIBLE) for of in logprobs],
        top_logprobs=[None if of is None else _top_by_text(tokenizer, of) for of in logprobs],
        text_offset=offsets,
    )


def _top(tokenizer: Tokenizer, token_id: int, logprob: float) -> TopLogprob:
    return TopLogprob(token_text(tokenizer, token_id), max(logprob, IMPOSSIBLE), list(tokenizer.token_bytes(token_id)))


def _top_by_text(tokenizer: Tokenizer, of: TokenLogprobs) -> dict[str, float]:
    """The most likely tokens by their text; of two with the same text the likelier counts."""
    top: dict[str, float] = {}
    for token_id, logprob in (*of.top, (of.token_id, of.logprob)):
        top.setdefault(token_text(tokenizer, token_id), max(logprob, IMPOSSIBLE))
    return top


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    """A token as text; U+FFFD for bytes that are no character by themselves."""
    return tokenizer.token_bytes(token_id).decode("utf-8", "replace")
