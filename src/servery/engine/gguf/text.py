"""What a GGUF model says of text: its tokenizer, its chat templates, and how its makers sample. No torch.

A tokenizer.json or chat_template.jinja beside the file goes before what the metadata say.
"""

from pathlib import Path
from typing import Any

import tokenizers

from servery.engine.errors import LoadError
from servery.engine.gguf.files import open_gguf
from servery.engine.gguf.header import Array
from servery.engine.gguf.vocabulary import TokenKind, Vocabulary, read_tokenizer
from servery.engine.gguf.vocabulary import special_tokens as read_special
from servery.engine.json_fields import JsonFields

# How an option of a sampler is called there, and in generation_config.json.
_SAMPLING = {"temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"} | {
    "penalty_repeat": "repetition_penalty"
}


def gguf_tokenizer(path: Path) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """The tokenizer of the model whose first file is `path`, and its special tokens by name.

    Raises `LoadError` when it is of a kind that is not supported, or when the tokenizer.json beside the file is that
    of another model.
    """
    metadata = open_gguf(path).fields
    beside = path.parent / "tokenizer.json"
    backend = _read(beside, metadata) if beside.is_file() else read_tokenizer(metadata)
    return backend, read_special(metadata)


def gguf_templates(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The chat templates by name, none for a base model, and the special tokens that they can use."""
    metadata = open_gguf(path).fields
    names = metadata.raw("tokenizer.chat_templates")
    named = {name: f"tokenizer.chat_template.{name}" for name in (names.strings() if isinstance(names, Array) else [])}
    keys = {"default": "tokenizer.chat_template"} | named
    templates = {name: text for name, key in keys.items() if isinstance(text := metadata.raw(key), str)}
    beside = path.parent / "chat_template.jinja"
    if beside.is_file():
        templates["default"] = beside.read_text(encoding="utf-8")
    return templates, read_special(metadata)


def gguf_sampling(path: Path) -> dict[str, Any]:
    """How the model's makers sample from it, under the names of generation_config.json."""
    metadata = open_gguf(path).fields
    given = {name: metadata.raw(f"general.sampling.{key}") for key, name in _SAMPLING.items()}
    return {name: value for name, value in given.items() if value is not None}


def _read(beside: Path, metadata: JsonFields) -> tokenizers.Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_buffer(beside.read_bytes())
    except (OSError, ValueError) as error:
        raise LoadError(f"{beside} cannot be read: {error}. Download it again, or remove it.") from error
    if metadata.has("tokenizer.ggml.tokens"):
        vocabulary = Vocabulary.read(metadata)
        for token_id, (text, kind) in enumerate(zip(vocabulary.texts, vocabulary.kinds, strict=True)):
            if kind == TokenKind.NORMAL and backend.id_to_token(token_id) != text:
                raise LoadError(
                    f"{beside} has {backend.id_to_token(token_id)!r} for token {token_id}, {metadata.path.name} has "
                    f"{text!r}: it belongs to another model. Move it elsewhere."
                )
    return backend
