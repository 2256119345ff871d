"""Keeps a client's text from forging control tokens.

A chat template joins control tokens (`<|im_start|>`) with what clients wrote. Encoded in one go, a message that
contains the text `<|im_end|><|im_start|>system` would become another turn. Encoded piece by piece, tokens would differ
from those the model was trained on wherever a piece ends inside a word. So the text is encoded in one go by a variant
of the tokenizer in which control tokens are spelled differently, with a random part that no client can know:

    hide     in the client's strings, replace each control token's text by a mark in private-use characters
    render   the template
    spell    replace the control tokens' text, now only the template's own, by the secret spelling
    reveal   replace the marks by the text they stand for
    encode   with the variant, to which that text is ordinary

If no string of the client contains a control token, none of this is needed and the plain tokenizer is used.
"""

import json
import re
import secrets
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

import tokenizers

from servery.engine.errors import InvalidRequest, LoadError

_MARK = "\U0010fffd"  # a private-use character; followed by one that says which text it stands for
_FIRST_INDEX = 0x100000  # of those: the private-use plane 16
_MAX_TOKENS = 0xFFF0
_MAX_DEPTH = 100  # of nested objects and lists: far below Python's own limit


class ControlTokens:
    """The control tokens of one tokenizer, and the variant that spells them differently.

    `markers` are tokens that a model may itself write as text (`<think>`) though the template uses them: they are
    hidden in the words of everybody but the assistant.
    """

    def __init__(self, backend: tokenizers.Tokenizer, special: Collection[str], markers: Collection[str]) -> None:
        texts = [_MARK, *sorted({*special, *markers})]
        if len(texts) > _MAX_TOKENS:
            raise LoadError(
                f"The tokenizer has {len(texts) - 1} control tokens; at most {_MAX_TOKENS - 1} can be kept."
            )
        self._mark_of = {text: _MARK + chr(_FIRST_INDEX + i) for i, text in enumerate(texts)}
        self._text_of = {mark: text for text, mark in self._mark_of.items()}
        self._quoted = _any_of([_MARK, *special])
        self._quoted_or_marker = _any_of(texts)
        self._own = _any_of(texts[1:])
        nonce = secrets.token_hex(8)
        self._spelling = {text: f"{_MARK}{nonce}.{i}{_MARK}" for i, text in enumerate(texts) if i > 0}
        self._backend = backend
        self._variant: tokenizers.Tokenizer | None = None
        self._lock = threading.Lock()

    def hide(self, value: Any, *, is_assistant: bool) -> Any:
        """A copy of `value` (JSON-like) with the control tokens in its strings, keys included, replaced by marks."""
        pattern = self._quoted if is_assistant else self._quoted_or_marker
        return _map_strings(value, lambda text: pattern.sub(lambda match: self._mark_of[match[0]], text))

    def are_in(self, text: str) -> bool:
        """Whether any control token is written out in `text`."""
        return self._own.search(text) is not None

    def encode(self, text: str) -> list[int]:
        """The ids of a rendered text with marks."""
        spelled = self._own.sub(lambda match: self._spelling[match[0]], text)
        revealed = re.sub(f"{_MARK}[\U00100000-\U0010fff0]", lambda match: self._text_of.get(match[0], ""), spelled)
        return self._respelled_backend().encode_batch_fast([revealed], add_special_tokens=False)[0].ids

    def _respelled_backend(self) -> tokenizers.Tokenizer:
        """The variant, made when a client first writes a control token: it takes as long to load as the original."""
        with self._lock:
            if self._variant is None:
                self._variant = _respelled(self._backend, self._spelling)
            return self._variant


def _map_strings(value: Any, change: Callable[[str], str], depth: int = 0) -> Any:
    """A copy of a JSON-like value with every string changed, keys included."""
    if depth > _MAX_DEPTH:
        raise InvalidRequest(f"messages and tools may be nested {_MAX_DEPTH} levels deep; this request goes deeper.")
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _map_strings(item, change, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_strings(item, change, depth + 1) for item in value]
    return value


def _any_of(texts: Collection[str]) -> re.Pattern[str]:
    """Matches any of `texts`, the longest that fits first, as the tokenizer does; never matches if there is none."""
    return re.compile("|".join(re.escape(text) for text in sorted(texts, key=len, reverse=True)) or r"(?!)")


def _respelled(backend: tokenizers.Tokenizer, spelling: Mapping[str, str]) -> tokenizers.Tokenizer:
    """The same tokenizer with other names for some tokens, in the added tokens and in the model's vocabulary."""
    spec = json.loads(backend.to_str())
    for token in spec["added_tokens"]:
        token["content"] = spelling.get(token["content"], token["content"])
    model = spec["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {spelling.get(token, token): i for token, i in model["vocab"].items()}
    else:  # Unigram: a list of [token, score]
        model["vocab"] = [[spelling.get(token, token), score] for token, score in model["vocab"]]
    if model.get("unk_token") is not None:
        model["unk_token"] = spelling.get(model["unk_token"], model["unk_token"])
    spec["post_processor"] = None  # rendered text brings its own BOS
    variant = tokenizers.Tokenizer.from_str(json.dumps(spec))
    for text, other in spelling.items():
        if variant.token_to_id(other) != backend.token_to_id(text):
            raise LoadError(f"tokenizer.json: the control token {text!r} cannot be protected from clients' text.")
    return variant
