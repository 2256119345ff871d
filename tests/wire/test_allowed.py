"""The words that may stand somewhere are found by the type of the request, wherever that is."""

from typing import Any

import pytest

from servery.wire.allowed import allowed_words
from servery.wire.anthropic import AnthropicRequest
from servery.wire.batches import BatchRequest
from servery.wire.chat import ChatRequest


@pytest.mark.parametrize(
    ("kind", "path", "words"),
    [
        (BatchRequest, "completion_window", ["24h"]),
        (ChatRequest, "messages[0].role", ["assistant", "developer", "system", "tool", "user"]),
        (ChatRequest, "response_format.type", ["json", "json_object", "json_schema", "regex", "text"]),
        (ChatRequest, "tool_choice.type", ["allowed_tools", "function"]),
        (AnthropicRequest, "thinking.type", ["adaptive", "disabled", "enabled"]),
        (ChatRequest, "temperature", []),
        (ChatRequest, "logit_bias[...]", []),
        (ChatRequest, "nothing[0].there", []),
        (ChatRequest, "", []),
        (int, "a", []),
    ],
)
def test_words_are_found_by_type(kind: Any, path: str, words: list[str]) -> None:
    assert allowed_words(kind, path) == words
