"""The tokenizer in the metadata of a GGUF model, rebuilt for `tokenizers`. No torch.

Two kinds of vocabulary are supported: byte-level BPE with its merges (`gpt2`), and SentencePiece's BPE with byte
fallback (`llama`), whose merges follow from the scores of its pieces.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from operator import itemgetter
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, processors

from servery.engine.errors import LoadError
from servery.engine.gguf.header import Array
from servery.engine.gguf.pretokenizers import PRE_TOKENIZERS, PreTokenizer, nearest_pre_tokenizer
from servery.engine.json_fields import JsonFields

_SPACE = "\u2581"  # SentencePiece's visible space
MAX_TOKEN_CHARACTERS = 1024
_ADVICE = "Put the model's tokenizer.json beside the file: it is used instead"


class TokenKind(IntEnum):
    """What `tokenizer.ggml.token_type` says of a token."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens by id, with the kind and the score of each."""

    texts: Sequence[str]
    kinds: Sequence[int]
    scores: Sequence[float]

    @classmethod
    def read(cls, metadata: JsonFields) -> "Vocabulary":
        """From the metadata; raises `LoadError` when the lists are missing or of different lengths."""
        tokens = metadata.raw("tokenizer.ggml.tokens")
        if not isinstance(tokens, Array):
            raise metadata.error("tokenizer.ggml.tokens", f"it must list the tokens. {_ADVICE}")
        texts = tokens.strings()
        if len(set(texts)) < len(texts):
            double = next(text for text, number in Counter(texts).items() if number > 1)
            raise LoadError(f"{metadata.path}: tokenizer.ggml.tokens lists {double!r} twice. The file is damaged.")
        longest = max(map(len, texts), default=0)
        if longest > MAX_TOKEN_CHARACTERS:
            rule = f"has a token of {longest} characters; at most {MAX_TOKEN_CHARACTERS} are possible"
            raise LoadError(f"{metadata.path}: tokenizer.ggml.tokens {rule}. The file is damaged.")
        kinds = _numbers(metadata, "token_type", len(texts)) or [TokenKind.NORMAL] * len(texts)
        scores = _numbers(metadata, "scores", len(texts)) or [0.0] * len(texts)
        return cls(texts, kinds, scores)

    def ids(self) -> dict[str, int]:
        """Ids by text, without the tokens that only fill the table up to a round number."""
        return {text: i for i, text in enumerate(self.texts) if not self._is_filler(i)}

    def added(self, **settings: bool) -> list[AddedToken]:
        """The tokens that are found in a text before it is cut: control tokens, and others that are not special."""
        kinds = {TokenKind.CONTROL: True, TokenKind.UNKNOWN: True, TokenKind.USER_DEFINED: False}
        return [
            AddedToken(text, special=kinds[TokenKind(kind)], normalized=False, **settings)
            for text, kind in zip(self.texts, self.kinds, strict=True)
            if kind in kinds and text
        ]

    def _is_filler(self, token_id: int) -> bool:
        is_unused = self.kinds[token_id] == TokenKind.UNUSED
        return not self.texts[token_id] or (is_unused and self.texts[token_id] == f"[PAD{token_id}]")


def read_tokenizer(metadata: JsonFields) -> tokenizers.Tokenizer:
    """The tokenizer that the metadata describes. Raises `LoadError` for a kind that is not supported."""
    kind = metadata.raw("tokenizer.ggml.model")
    if kind == "gpt2":
        return _byte_level(metadata)
    if kind == "llama":
        return _sentence_pieces(metadata)
    raise metadata.error("tokenizer.ggml.model", f"supported are gpt2 and llama. {_ADVICE}")


def special_tokens(metadata: JsonFields) -> dict[str, str]:
    """The texts of the special tokens by name (`"bos_token"`), as chat templates know them."""
    names = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad", "seperator": "sep", "mask": "mask"}
    tokens = metadata.raw("tokenizer.ggml.tokens")
    if not isinstance(tokens, Array):
        return {}
    texts = tokens.strings()
    found = {name: _token(metadata, key, texts) for key, name in names.items()}
    return {f"{name}_token": text for name, text in found.items() if text is not None}


def _byte_level(metadata: JsonFields) -> tokenizers.Tokenizer:
    vocabulary, pre = Vocabulary.read(metadata), _pre_tokenizer(metadata)
    merges = metadata.raw("tokenizer.ggml.merges")
    if not isinstance(merges, Array):
        raise metadata.error("tokenizer.ggml.merges", f"byte-level BPE needs them. {_ADVICE}")
    model = _bpe(metadata, vocabulary.ids(), _pairs(metadata, merges), ignore_merges=pre.ignores_merges)
    tokenizer = tokenizers.Tokenizer(model)
    if pre.normalizer is not None:
        tokenizer.normalizer = pre.normalizer
    tokenizer.pre_tokenizer = pre.steps
    tokenizer.decoder = decoders.ByteLevel()
    _add(tokenizer, vocabulary.added())
    _surround(tokenizer, metadata, vocabulary.texts, adds_bos=pre.adds_bos)
    return tokenizer


def _sentence_pieces(metadata: JsonFields) -> tokenizers.Tokenizer:
    vocabulary = _with_visible_spaces(Vocabulary.read(metadata))
    unknown = _token(metadata, "unknown", vocabulary.texts) or vocabulary.texts[0]
    has_bytes = TokenKind.BYTE in vocabulary.kinds
    ids = vocabulary.ids()
    model = _bpe(metadata, ids, _merges(vocabulary), unk_token=unknown, fuse_unk=True, byte_fallback=has_bytes)
    tokenizer = tokenizers.Tokenizer(model)
    adds_space = metadata.flag("tokenizer.ggml.add_space_prefix", True)
    replaced = normalizers.Replace(" ", _SPACE)
    steps = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if adds_space:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), replaced])
        tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    else:
        tokenizer.normalizer = replaced
        tokenizer.decoder = decoders.Sequence(steps)
    # Phi-3's control tokens take the white space behind them (src/llama-vocab.cpp in ggml-org/llama.cpp).
    _add(tokenizer, vocabulary.added(rstrip=metadata.raw("general.architecture") == "phi3"))
    _surround(tokenizer, metadata, vocabulary.texts, adds_bos=True)
    return tokenizer


def _with_visible_spaces(vocabulary: Vocabulary) -> Vocabulary:
    """Converters write the spaces of user-defined pieces as spaces; the model's own tokenizer does not."""
    texts = [
        text.replace(" ", _SPACE) if kind == TokenKind.USER_DEFINED else text
        for text, kind in zip(vocabulary.texts, vocabulary.kinds, strict=True)
    ]
    return Vocabulary(texts, vocabulary.kinds, vocabulary.scores)


def _merges(vocabulary: Vocabulary) -> list[tuple[str, str]]:
    """Every way to make a piece of two others, the piece of the best score first.

    SentencePiece joins the neighbours that make the piece of the highest score. Among the ways to one piece the order
    is that of `transformers` (longer left halves first), whose tokenizer.json a model was published with.
    """
    kinds = (TokenKind.NORMAL, TokenKind.USER_DEFINED)
    pieces = {text: i for i, text in enumerate(vocabulary.texts) if vocabulary.kinds[i] in kinds}
    ways = [
        ((-vocabulary.scores[i], -cut, cut - len(piece)), (piece[:cut], piece[cut:]))
        for piece, i in pieces.items()
        for cut in range(1, len(piece))
        if piece[:cut] in pieces and piece[cut:] in pieces
    ]
    ways.sort(key=itemgetter(0))
    return [pair for _, pair in ways]


def _pairs(metadata: JsonFields, merges: Array) -> list[tuple[str, str]]:
    return [_pair(metadata, number, merge) for number, merge in enumerate(merges.strings())]


def _pair(metadata: JsonFields, number: int, merge: str) -> tuple[str, str]:
    cut = merge.find(" ", 1)  # the first token may begin with one
    if cut < 1 or cut + 1 == len(merge):
        where = f"{metadata.path}: merge {number} in tokenizer.ggml.merges"
        raise LoadError(f"{where} is {merge!r}; it must be two tokens with a space between.")
    return merge[:cut], merge[cut + 1 :]


def _bpe(metadata: JsonFields, ids: dict[str, int], merges: list[tuple[str, str]], **settings: Any) -> models.BPE:
    unknown = next((pair for pair in merges if not all(text in ids for text in (*pair, "".join(pair)))), None)
    if unknown is not None:
        path = metadata.path
        raise LoadError(f"{path}: the merge of {unknown[0]!r} and {unknown[1]!r} is of tokens that are not listed.")
    return models.BPE(ids, merges, **settings)


def _pre_tokenizer(metadata: JsonFields) -> PreTokenizer:
    name = metadata.raw("tokenizer.ggml.pre")
    if isinstance(name, str) and name in PRE_TOKENIZERS:
        return PRE_TOKENIZERS[name]
    nearest = f"; the nearest by name is {nearest_pre_tokenizer(name)}" if isinstance(name, str) else ""
    raise metadata.error("tokenizer.ggml.pre", f"supported are {', '.join(PRE_TOKENIZERS)}{nearest}. {_ADVICE}")


def _add(tokenizer: tokenizers.Tokenizer, tokens: Sequence[AddedToken]) -> None:
    """Two calls: one of them makes every token special."""
    tokenizer.add_tokens([token for token in tokens if not token.special])
    tokenizer.add_special_tokens([token for token in tokens if token.special])


def _surround(tokenizer: tokenizers.Tokenizer, metadata: JsonFields, texts: Sequence[str], *, adds_bos: bool) -> None:
    """What the model puts around a text."""
    bos, eos = (_token(metadata, key, texts) for key in ("bos", "eos"))
    first = [bos] if bos is not None and metadata.flag("tokenizer.ggml.add_bos_token", adds_bos) else []
    last = [eos] if eos is not None and metadata.flag("tokenizer.ggml.add_eos_token", False) else []
    if first or last:
        pairs = [(text, texts.index(text)) for text in dict.fromkeys((*first, *last))]
        tokenizer.post_processor = processors.TemplateProcessing(single=[*first, "$A", *last], special_tokens=pairs)


def _token(metadata: JsonFields, key: str, texts: Sequence[str]) -> str | None:
    """The text of the token that `tokenizer.ggml.<key>_token_id` names, or that SentencePiece has by default."""
    name = f"tokenizer.ggml.{key}_token_id"
    token_id = metadata.raw(name)
    if token_id is None and metadata.raw("tokenizer.ggml.model") == "llama":
        token_id = {"unknown": 0, "bos": 1, "eos": 2}.get(key)
    if token_id is None:
        return None
    if not isinstance(token_id, int) or not 0 <= token_id < len(texts):
        raise metadata.error(name, f"it must be the number of a token, below {len(texts)}")
    return texts[token_id]


def _numbers(metadata: JsonFields, name: str, length: int) -> list[Any] | None:
    """A list with a number for each token, None if there is none."""
    key = f"tokenizer.ggml.{name}"
    values = metadata.raw(key)
    if values is None:
        return None
    if not isinstance(values, Array) or values.count != length:
        raise metadata.error(key, f"it must have a number for each of {length} tokens")
    return values.numbers()
