"""About how many tokens a request's prompt has, before anybody has tokenized it. Pure.

Four bytes of JSON are taken for a token, which holds for English prose. A token has a byte at least, so that no text comes
to more than four times its estimate; what the tokenizer and a chat template put around it comes besides. Token ids are
counted as what they are.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from servery.gateway.dispatch.prefixes import PROMPT_FIELDS
from servery.upstream.ask import Api, Ask

BYTES_PER_TOKEN = 4
# What an image is taken for, whatever its size: providers make from 85 to about 1,600 tokens of one.
TOKENS_PER_IMAGE = 1_024
_FIELDS = frozenset((*PROMPT_FIELDS, "suffix", "functions", "chat_template", "chat_template_kwargs"))
_LISTS = ("prompt", "input", "documents")
_IMAGES = frozenset(("image_url", "input_image", "image"))
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_ANYTHING = msgspec.json.Decoder(list[Any])


def input_tokens(ask: Ask) -> int:
    """About how many tokens the prompts have together, what a conversation that is kept here said before included.

    Each completion's prompt counts once, as providers count it; a query once for each document that it is compared with.
    """
    fields = ask.fields
    tokens = 0
    for name, value in fields.items():
        if name in _FIELDS:
            tokens += _field_tokens(name, bytes(value))
    if ask.api is Api.RERANK and "query" in fields:
        tokens += (len(_items(fields.get("documents"))) - 1) * _text_tokens(len(bytes(fields["query"])))
    conversation = ask.conversation
    if conversation is not None and conversation.is_known:
        tokens += _field_tokens("input", msgspec.json.encode(conversation.history()))
    return tokens or 1


def count_prompts(ask: Ask) -> int:
    """How many prompts the request has: the API of completions takes a list of them."""
    if ask.api is not Api.COMPLETIONS:
        return 1
    items = _items(ask.fields.get("prompt"))
    return max(1, len(items)) if any(bytes(item)[:1] in b'"[' for item in items) else 1


def _field_tokens(name: str, value: bytes) -> int:
    if b"image" not in value and name not in _LISTS:
        return len(value) // BYTES_PER_TOKEN or 1
    is_list = name in _LISTS and value.startswith(b"[")
    if is_list and b'"' not in value:
        return value.count(b",") + 1  # token ids alone, in one list or in several
    images = list(_images(name, value)) if b"image" in value else []
    tokens = _text_tokens(len(value) - sum(map(len, images))) + TOKENS_PER_IMAGE * len(images)
    # However short a text is, it has a token.
    return max(tokens, len(_items(msgspec.Raw(value)))) if is_list else tokens


def _text_tokens(size: int) -> int:
    return max(1, size // BYTES_PER_TOKEN)


def _items(value: msgspec.Raw | None) -> list[msgspec.Raw]:
    return _LIST.decode(value) if value is not None and bytes(value)[:1] == b"[" else []


def _images(name: str, value: bytes) -> Iterator[str]:
    """Of each image among the parts of messages, the text that stands for it and is none of the prompt's."""
    if name not in ("messages", "input") or value[:1] != b"[":
        return
    for message in _ANYTHING.decode(value):
        if isinstance(message, dict):
            for content in (message.get("content"), message.get("output")):
                yield from _of_parts(content)


def _of_parts(content: Any) -> Iterator[str]:
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict):
            continue
        if part.get("type") == "tool_result" and isinstance(part.get("content"), list):
            yield from _of_parts([each for each in part["content"] if _is_image(each)])
        elif _is_image(part):
            yield _data(part)


def _is_image(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in _IMAGES


def _data(part: Mapping[str, Any]) -> str:
    """The image's own letters; none where it has only an address, which is short."""
    if part["type"] == "image":
        source = part.get("source")
        data = source.get("data") if isinstance(source, dict) and source.get("type") == "base64" else None
        return data if isinstance(data, str) and data.isascii() else ""
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    return url if isinstance(url, str) and url.isascii() and _DATA_URL.match(url) else ""
