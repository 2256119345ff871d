"""A model's tokens as the grammar library sees them: bytes, which of them are control tokens, and how text is cut."""

from collections.abc import Collection, Sequence

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
        self.special = {name: i for name, i in tokenizer.special_names.items() if i < size}
        special = sorted({*(i for i in tokenizer.special_ids if i < size), *self.end_ids})
        wrapper = llguidance.TokenizerWrapper(_Tokens(tokenizer, size, special))
        self.compiled = llguidance.LLTokenizer(wrapper)

    def token_bytes(self, token_id: int) -> bytes:
        """What a token stands for; control tokens stand for their name."""
        return self.tokenizer.token_bytes(token_id)


class _Tokens:
    """What llguidance asks a tokenizer for."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, size: int, special: Sequence[int]) -> None:
        self.eos_token_id = size
        self.tokens = [*(tokenizer.token_bytes(i) for i in range(size)), b"<|end|>"]
        self.special_token_ids = [*special, size]
        self._tokenizer = tokenizer

    def __call__(self, text: str | bytes) -> list[int]:
        """The tokens of a text that is the middle of another: a space that some tokenizers put first is none of it."""
        decoded = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        token_ids = self._tokenizer.encode(f"\n{decoded}", add_special_tokens=False)
        before = b""
        for at, token_id in enumerate(token_ids):
            before += self.tokens[token_id]
            if before.endswith(b"\n"):
                return token_ids[at + 1 :]
            if len(before) > 2:  # the line break is glued to what follows
                break
        return self._tokenizer.encode(decoded, add_special_tokens=False)
