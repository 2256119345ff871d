"""Hugging Face's own client of TGI, unmodified, against a real server."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import ValidationError

from tests.e2e.server_process import ServerProcess, serving

PROMPT = "Once upon a time"
SCHEMA = {"enum": ["yes", "no"]}


@pytest.fixture(scope="module")
def alone() -> Iterator[ServerProcess]:
    """TGI serves one model."""
    with serving("amuse") as started:
        yield started


@pytest.fixture(scope="module")
def client(alone: ServerProcess) -> InferenceClient:
    return InferenceClient(alone.url, timeout=60)


def test_a_text_is_continued_whole_and_token_by_token(client: InferenceClient) -> None:
    whole = client.text_generation(PROMPT, max_new_tokens=40, details=True, decoder_input_details=True)
    plain = client.text_generation(PROMPT, max_new_tokens=40)
    stream = list(client.text_generation(PROMPT, max_new_tokens=40, details=True, stream=True))
    short = client.text_generation(PROMPT, max_new_tokens=2, details=True)

    assert whole.details is not None
    assert short.details is not None
    tokens, count = whole.details.tokens, len(whole.details.tokens)
    assert plain == whole.generated_text == "".join(token.text for token in tokens if not token.special)
    assert [token.special for token in tokens] == [False] * (count - 1) + [True]
    assert (whole.details.finish_reason, whole.details.generated_tokens) == ("eos_token", count)
    assert (short.details.finish_reason, short.details.tokens) == ("length", tokens[:2])
    assert whole.details.prefill[0].logprob is None
    assert all(token.logprob is not None for token in whole.details.prefill[1:])
    assert [event.token for event in stream] == [
        type(stream[0].token)(id=token.id, text=token.text, logprob=token.logprob, special=token.special)
        for token in tokens
    ]
    assert [event.index for event in stream] == list(range(1, count + 1))
    assert [event.generated_text for event in stream] == [None] * (count - 1) + [plain]
    assert stream[-1].details is not None
    assert (stream[-1].details.finish_reason, stream[-1].details.generated_tokens) == ("eos_token", count)


def test_a_stop_sequence_ends_the_text_and_is_in_it(client: InferenceClient) -> None:
    full = client.text_generation(PROMPT, max_new_tokens=12)
    stop = full.split()[1]
    answer = client.text_generation(PROMPT, max_new_tokens=12, stop=[stop], details=True, return_full_text=True)

    assert answer.details is not None
    assert answer.details.finish_reason == "stop_sequence"
    assert answer.generated_text == PROMPT + full[: full.index(stop) + len(stop)]


def test_a_grammar_holds_texts_and_chats(client: InferenceClient) -> None:
    text = client.text_generation(PROMPT, grammar={"type": "json", "value": SCHEMA}, max_new_tokens=50)  # type: ignore[arg-type]
    assert json.loads(text) in SCHEMA["enum"]
    question = [{"role": "user", "content": "?"}]
    forms: list[Any] = [
        {"type": "json", "value": SCHEMA},
        {"type": "json_object", "value": SCHEMA},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
    ]
    for form in forms:
        answer = client.chat_completion(question, response_format=form, max_tokens=50, temperature=0)
        assert json.loads(answer.choices[0].message.content or "") in SCHEMA["enum"]
    regex: Any = {"type": "regex", "value": "[ab]{3}"}
    said = client.chat_completion(question, model="tgi", response_format=regex)
    assert set(said.choices[0].message.content or "") <= {"a", "b"}


def test_what_is_wrong_is_told_as_tgi_tells_it(client: InferenceClient) -> None:
    with pytest.raises(ValidationError, match=r"'parameters.typical_p' is not supported"):
        client.text_generation(PROMPT, typical_p=0.5)
    with pytest.raises(ValidationError, match=r"'parameters.top_p' is 2"):
        client.text_generation(PROMPT, top_p=2.0)
