"""A writer that knows nothing but what it may: at each position any allowed token, by chance."""

import random
from collections.abc import Sequence

import llguidance
import numpy as np

from servery.engine.constraint import Constraint
from servery.engine.structure.grammar import grammar_text
from servery.engine.structure.vocabulary import Vocabulary


class Endless(AssertionError):
    """A walk that has not come to an end: by chance, where a form has strings without a limit."""


def write(
    wanted: Constraint, vocabulary: Vocabulary, chance: random.Random, most: int = 2000, first: Sequence[int] = ()
) -> str:
    """A whole text of the language, special tokens by their names; fails after `most` tokens. It begins with `first`."""
    matcher = llguidance.LLMatcher(vocabulary.compiled, grammar_text(wanted), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    written = b""
    for at in range(most):
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        allowed = np.flatnonzero(bits).tolist()
        assert not matcher.is_error(), matcher.get_error()
        token_id = first[at] if at < len(first) else chance.choice(allowed)
        if vocabulary.end in allowed and at >= len(first) and chance.random() < 0.1:
            token_id = vocabulary.end
        if token_id == vocabulary.end:
            return written.decode()
        written += vocabulary.token_bytes(token_id)
        assert matcher.consume_token(token_id)
    raise Endless(f"no end after {most} tokens: {written[:300]!r}")
