"""Text to token ids and back, for the tokenizers of the supported model families.

A thin layer over Hugging Face `tokenizers`. Encoding is theirs. Decoding is ours and works on bytes, so that one token
can be decoded at a time and the pieces add up to the whole: `token_bytes` gives what a token stands for, and text is
the UTF-8 of the concatenation. Three kinds of vocabulary exist among the supported families: byte-level BPE
(Llama 3, Qwen, SmolLM, Phi-4), SentencePiece with byte fallback (Llama 2, Mistral, Gemma) and SentencePiece without.

For ids whose bytes are not valid UTF-8, the text holds one U+FFFD for each maximal invalid part (Unicode 15, section
3.9, as Python and Rust do). `tokenizers` agrees for byte-level BPE; its byte fallback replaces a whole run of byte
tokens when one of them is wrong, which would take back text already streamed.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from servery.engine.errors import InvalidRequest, LoadError
from servery.engine.gguf.files import find_gguf
from servery.engine.gguf.text import gguf_tokenizer
from servery.engine.json_fields import read_optional_json
from servery.engine.model_folder import check_is_model_folder

_SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")
_SPACE = "\u2581"  # SentencePiece's visible space


class Tokenizer:
    """A model's tokenizer. Immutable after loading, so any number of threads may use it at once."""

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special_tokens: Mapping[str, str] | None = None,
    ) -> None:
        """`special_tokens` maps names (`"eos_token"`) to texts.

        Raises `LoadError` if the backend's decoder is of an unsupported kind.
        """
        self.special_tokens = dict(special_tokens or {})
        backend.no_truncation()
        backend.no_padding()
        _mark_special(backend, self.special_tokens.values())
        self.backend = backend
        # One more than the largest token id; the model's own vocabulary may be padded beyond it.
        self.vocab_size = max(backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        added = backend.get_added_tokens_decoder().items()
        self.added_names = {token.content: token_id for token_id, token in added}
        self.special_names = {token.content: token_id for token_id, token in added if token.special}
        self.special_ids = frozenset(self.special_names.values())
        self._decoding = _Decoding(backend)
        self._bytes: dict[int, bytes] = {}  # filled on demand, at most one entry per token

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """The tokenizer in a checkpoint's folder, or that of a GGUF file.

        Reads tokenizer.json and, where present, tokenizer_config.json and special_tokens_map.json. Raises `LoadError`
        naming the file and what to do.
        """
        folder = Path(path)
        file = find_gguf(folder)
        if file is not None:
            return cls(*gguf_tokenizer(file))
        check_is_model_folder(folder)
        backend = _load_backend(folder)
        config = read_optional_json(folder / "tokenizer_config.json")
        _add_missing(backend, config.get("added_tokens_decoder") or {}, folder)
        return cls(backend, read_special_tokens(folder))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The ids of `text`; special tokens written out in it are recognised.

        `add_special_tokens` adds what the model puts around a text (usually BOS at the start).
        Raises `InvalidRequest` if the text is not valid Unicode.
        """
        check_text(text)
        # The batch call lets other threads run meanwhile; `encode` holds the interpreter for the whole of a long text.
        return self.backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of `token_ids`; ids that the tokenizer does not know stand for nothing."""
        kept = self.visible(token_ids, skip_special_tokens)
        pieces = [self.token_bytes(token_id) for token_id in kept]
        if pieces:
            pieces[0] = self.first_token_bytes(kept[0])
        text = b"".join(pieces).decode("utf-8", "replace")
        return text.removeprefix(" ") if self.strips_first_space else text

    def visible(self, token_ids: Sequence[int], skip_special_tokens: bool) -> list[int]:
        """Those of `token_ids` that a decoder sees: known ones, without special tokens if these are skipped."""
        hidden = self.special_ids if skip_special_tokens else frozenset()
        return [i for i in token_ids if i not in hidden and self._token(i) is not None]

    def token_bytes(self, token_id: int) -> bytes:
        """What a token stands for inside a text; b"" for an id without a token."""
        return self.piece(token_id) or b""

    def piece(self, token_id: int) -> bytes | None:
        """What a token stands for inside a text; None for an id without a token."""
        known = self._bytes.get(token_id)
        if known is None:
            token = self._token(token_id)
            if token is None:
                return None
            known = self._bytes[token_id] = self._decoding.bytes_of(token)
        return known

    def first_token_bytes(self, token_id: int) -> bytes:
        """What a token stands for at the start of a text, where some tokenizers drop its space."""
        token = self._token(token_id)
        return b"" if token is None else self._decoding.first_bytes_of(token)

    @property
    def strips_first_space(self) -> bool:
        """Whether one leading space of a decoded text is the tokenizer's own (Llama 2)."""
        return self._decoding.strips_first_space

    def token_id(self, token: str) -> int | None:
        """The id of a token by its name in the vocabulary, or None."""
        return self.backend.token_to_id(token)

    def _token(self, token_id: int) -> str | None:
        return self.backend.id_to_token(token_id) if 0 <= token_id < self.vocab_size else None


def check_text(text: str) -> None:
    """Raise `InvalidRequest` if `text` has lone surrogates, which no UTF-8 and no token can express."""
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"The text is not valid Unicode: character {error.start} is the lone surrogate "
            f"U+{ord(text[error.start]):04X}; send UTF-8 (in JSON, surrogate escapes come in pairs)."
        ) from error


def read_special_tokens(folder: Path) -> dict[str, str]:
    """The texts of a checkpoint's special tokens by name (`"bos_token"`), as chat templates know them."""
    merged = read_optional_json(folder / "special_tokens_map.json") | read_optional_json(
        folder / "tokenizer_config.json"
    )
    found: dict[str, str] = {}
    for name in _SPECIAL_NAMES:
        value = merged.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            found[name] = text
    return found


def _load_backend(folder: Path) -> tokenizers.Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        is_old = (folder / "tokenizer.model").is_file()
        old = " Its tokenizer.model is in an older format, which must be converted." if is_old else ""
        raise LoadError(
            f"{path} does not exist.{old} Load the model's tokenizer once with transformers and save it "
            f'there: AutoTokenizer.from_pretrained(...).save_pretrained("{folder}").'
        )
    try:
        return tokenizers.Tokenizer.from_buffer(path.read_bytes())
    except (OSError, ValueError) as error:
        raise LoadError(f"{path} cannot be read: {error}. Download it again.") from error


def _add_missing(backend: tokenizers.Tokenizer, declared: Mapping[str, Any], folder: Path) -> None:
    """Add the tokens that only tokenizer_config.json declares; their ids must come out as declared."""
    try:
        tokens = {int(i): tokenizers.AddedToken(**_without_type(facts)) for i, facts in declared.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise LoadError(
            f"{folder / 'tokenizer_config.json'} has added_tokens_decoder entries that are no tokens: {error}. "
            "Download it again."
        ) from error
    for token_id, token in sorted(tokens.items()):
        if backend.token_to_id(token.content) is None:
            backend.add_tokens([token])
        actual = backend.token_to_id(token.content)
        if actual != token_id:
            raise LoadError(
                f"{folder / 'tokenizer_config.json'} gives token {token.content!r} the id {token_id}, "
                f"tokenizer.json gives it {actual}; the two files are not of the same model."
            )


def _without_type(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name != "__type"}


def _mark_special(backend: tokenizers.Tokenizer, texts: Iterable[str]) -> None:
    """Make every named special token one that the backend skips when decoding; none may become a new token."""
    special = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    missing = [text for text in texts if text not in special and backend.token_to_id(text) is not None]
    backend.add_special_tokens([tokenizers.AddedToken(text, special=True, normalized=False) for text in missing])


class _Decoding:
    """How a vocabulary's tokens become bytes, read from the decoder of tokenizer.json."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        # The decoder alone: writing out a tokenizer of 150,000 tokens takes a third of a second.
        decoder: dict[str, Any] = (
            {"type": None} if backend.decoder is None else json.loads(backend.decoder.__getstate__())
        )
        steps: list[dict[str, Any]] = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
        kinds = [step["type"] for step in steps]
        self.is_byte_level = kinds == ["ByteLevel"]
        self.has_byte_fallback = "ByteFallback" in kinds
        self.drops_first_spaces = kinds == ["Metaspace"] and steps[0].get("prepend_scheme", "always") != "never"
        self.strips_first_space = False
        if self.is_byte_level:
            self._byte_of = _byte_level_alphabet()
        elif kinds == ["Metaspace"]:
            self._check(steps[0], {"replacement": _SPACE})
        elif kinds in (["Replace", "ByteFallback", "Fuse"], ["Replace", "ByteFallback", "Fuse", "Strip"]):
            self._check(steps[0], {"pattern": {"String": _SPACE}, "content": " "})
            if len(kinds) == 4:
                self._check(steps[3], {"content": " ", "start": 1, "stop": 0})
                self.strips_first_space = True
        else:
            raise LoadError(f"tokenizer.json has the decoder {decoder}; {_SUPPORTED}")

    @staticmethod
    def _check(step: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        if any(step.get(key) != value for key, value in expected.items()):
            raise LoadError(f"tokenizer.json has the decoder step {step}; {_SUPPORTED}")

    def bytes_of(self, token: str) -> bytes:
        if self.is_byte_level:
            try:
                return bytes(self._byte_of[char] for char in token)
            except KeyError:  # an added token, written as it is
                return token.encode("utf-8")
        if self.has_byte_fallback and (match := _BYTE_TOKEN.match(token)):
            return bytes([int(match[1], 16)])
        return token.replace(_SPACE, " ").encode("utf-8")

    def first_bytes_of(self, token: str) -> bytes:
        return token.replace(_SPACE, "").encode("utf-8") if self.drops_first_spaces else self.bytes_of(token)


_SUPPORTED = (
    "supported are ByteLevel, Metaspace, and Replace \u2581, ByteFallback, Fuse with or without Strip "
    "(as in Llama, Mistral, Qwen, Gemma, SmolLM and Phi)."
)


def _byte_level_alphabet() -> dict[str, int]:
    """The printable character for each byte in a byte-level vocabulary (GPT-2's table), inverted.

    Printable Latin-1 stands for itself, the other 68 bytes for U+0100 and up, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
