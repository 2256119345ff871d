"""A writer that knows nothing but what it may: at each position any allowed token, by chance."""

import random

import llguidance
import numpy as np

from servery.engine.constraint import Constraint
from servery.engine.structure.grammar import grammar_text
from servery.engine.structure.vocabulary import Vocabulary


def write(wanted: Constraint, vocabulary: Vocabulary, chance: random.Random, most: int = 2000) -> str:
    """A whole text of the language, special tokens by their names; fails after `most` tokens."""
    matcher = llguidance.LLMatcher(vocabulary.compiled, grammar_text(wanted, vocabulary.special), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    written = b""
    for _ in range(most):
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        allowed = np.flatnonzero(bits).tolist()
        assert not matcher.is_error(), matcher.get_error()
        token_id = chance.choice(allowed)
        if token_id == vocabulary.end:
            return written.decode()
        written += vocabulary.token_bytes(token_id)
        assert matcher.consume_token(token_id)
    raise AssertionError(f"no end after {most} tokens: {written[:300]!r}")
