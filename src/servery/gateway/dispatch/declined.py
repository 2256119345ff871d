"""Answers that decline to answer: a refusal in words, or nothing but the word of a filter. Pure.

Where another model may judge otherwise they are held back: what the client has read cannot be taken back.
"""

from collections.abc import Sequence

from servery.upstream.upstream import Chunk

# A refusal is a few sentences; what is longer is an answer.
MOST_HELD_BYTES = 1 << 20
_FILTERED = "content_filter"


def declines(chunk: Chunk, said_tokens: int) -> bool:
    """Whether a piece says that there will be no answer, behind `said_tokens`."""
    return not said_tokens and (chunk.is_refusal or (chunk.finish_reason == _FILTERED and not chunk.tokens))


def joined(chunks: Sequence[Chunk]) -> Chunk:
    """Pieces that were held back, as one."""
    if len(chunks) == 1:
        return chunks[0]
    reasons = [each.finish_reason for each in chunks if each.finish_reason is not None]
    usages = [each.usage for each in chunks if each.usage is not None]
    return Chunk(
        data=b"".join([each.data for each in chunks]),
        index=chunks[-1].index,
        tokens=sum(each.tokens for each in chunks),
        finish_reason=reasons[-1] if reasons else None,
        prompt_tokens=sum(each.prompt_tokens for each in chunks),
        cached_tokens=sum(each.cached_tokens for each in chunks),
        deltas=tuple(delta for each in chunks for delta in each.deltas),
        usage=usages[-1] if usages else None,
        is_estimated=any(each.is_estimated for each in chunks),
    )
