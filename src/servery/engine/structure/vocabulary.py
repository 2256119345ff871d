"""A model's tokens as the grammar library sees them: bytes, which of them are control tokens, and how text is cut."""

from collections.abc import Callable, Collection, Sequence

import llguidance

from servery.engine.tokenizer import Tokenizer


class Vocabulary:
    """The tokens of one model, prepared for grammars; making it takes time in proportion to their number.

    `size` is that of the model's logits, which may be more than the tokenizer has tokens. One token is added, `end`,
    with which grammars say that the text may end here; it stands for any of `end_ids`, the model's own end tokens.
    """

    def __init__(self, tokenizer: Tokenizer, size: int, end_ids: Collection[int]) -> None:
        self.size = size
        self.end = size
        self.end_ids = frozenset(token_id for token_id in end_ids if token_id < size)
        self.num_words = size // 32 + 1  # of 32 bits, `end` included
        self.tokenizer = tokenizer
        self._special = frozenset({*(i for i in tokenizer.special_ids if i < size), *self.end_ids})
        tokens = [*(tokenizer.token_bytes(token_id) for token_id in range(size)), b"<|end|>"]
        wrapper = llguidance.TokenizerWrapper(_Tokens(tokens, [*sorted(self._special), self.end], self._cut_somehow))
        self._tokens = tokens[:-1]
        self._leading: dict[bytes, list[int]] = {}
        self._exceeding: dict[bytes, list[int]] = {}
        self.compiled = llguidance.LLTokenizer(wrapper)

    def token_bytes(self, token_id: int) -> bytes:
        """What a token stands for; control tokens stand for their name."""
        return self.tokenizer.token_bytes(token_id)

    def cut(self, text: str) -> list[int]:
        """The tokens of a text that is the middle of another; none if the tokenizer cannot say, or names control tokens.

        A space that some tokenizers put at the beginning of a text is not at the beginning here.
        """
        for lead in ("\n", ""):
            token_ids = self.tokenizer.encode(lead + text, add_special_tokens=False)
            pieces = [self.token_bytes(token_id) for token_id in token_ids]
            for at in range(min(len(token_ids), 4)):
                if b"".join(pieces[at:]) == text.encode() and self._special.isdisjoint(token_ids[at:]):
                    return token_ids[at:]
        return []

    def _cut_somehow(self, text: str) -> list[int]:
        """The same, or the longest tokens that fit, one after another: without any the library takes the text for over."""
        return self.cut(text) or self.compiled.greedy_tokenize(text)

    def spelled(self, marker: str) -> list[int]:
        """A marker's tokens: the one that it is, if the vocabulary has it, or those of its text."""
        token_id = self.tokenizer.token_id(marker)
        return [token_id] if token_id is not None else self._cut_somehow(marker)

    def leading(self, text: bytes) -> list[int]:
        """The tokens with which exactly `text` can begin. Looking takes long, so what was found is kept: for few texts."""
        if text not in self._leading:
            self._leading[text] = [i for i, token in enumerate(self._tokens) if token and text.startswith(token)]
        return self._leading[text]

    def exceeding(self, text: bytes) -> list[int]:
        """The tokens that begin with `text` and have more than space after it; for few texts, as `leading`."""
        if text not in self._exceeding:
            self._exceeding[text] = [
                i for i, token in enumerate(self._tokens) if token.startswith(text) and token[len(text) :].strip()
            ]
        return self._exceeding[text]


class _Tokens:
    """What llguidance asks a tokenizer for."""

    def __init__(
        self, tokens: Sequence[bytes], special_token_ids: Sequence[int], cut: Callable[[str], list[int]]
    ) -> None:
        self.bos_token_id, self.eos_token_id = None, len(tokens) - 1
        self.tokens, self.special_token_ids = tokens, special_token_ids
        self._cut = cut

    def __call__(self, text: str | bytes) -> list[int]:
        return self._cut(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)
