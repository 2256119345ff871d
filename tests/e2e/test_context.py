"""A prompt is taken whole or refused; an answer that fills the context says so. At every endpoint, by a real server."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.server_process import Answer, ServerProcess, eventually, serving

LIMIT = 64
LONG = "Tell me a long story. " * 40
STORY = "Tell me a story about a fox and a mouse. " * 4  # leaves room for the beginning of the answer only
TOLD = f"This model's maximum context length is {LIMIT} tokens. However, "


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    files = tmp_path_factory.mktemp("kept")
    with serving("amuse-draft", "--max-model-len", str(LIMIT), "--files", str(files)) as started:
        yield started


def ask(server: ServerProcess, path: str, **body: Any) -> Answer:
    return server.ask("POST", path, {"model": "amuse-draft", **body})


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def events(answer: Answer) -> list[dict[str, Any]]:
    lines = [line[6:] for line in answer.body.decode().splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "fields", "param", "given"),
    [
        ("/v1/chat/completions", {"messages": said(LONG)}, "messages", "your messages resulted in 283 tokens"),
        (
            "/v1/chat/completions",
            {"messages": said(STORY), "max_tokens": 14},
            "messages",
            "you requested 65 tokens (51 in the messages, 14 in the completion)",
        ),
        ("/v1/completions", {"prompt": LONG}, "prompt", "your prompt resulted in 280 tokens"),
        ("/v1/completions", {"prompt": ["a", LONG]}, "prompt[1]", "'prompt[1]' resulted in 280 tokens"),
        ("/v1/completions", {"prompt": [7] * LIMIT}, "prompt", "your prompt resulted in 64 tokens"),
        ("/v1/responses", {"input": LONG}, "input", "your messages resulted in 283 tokens"),
        ("/v1/messages", {"messages": said(LONG), "max_tokens": 5}, None, "your messages resulted in 283 tokens"),
    ],
)
def test_a_prompt_that_does_not_fit_is_refused_with_its_length_and_the_limit(
    small: ServerProcess, path: str, fields: dict[str, Any], param: str | None, given: str, stream: bool
) -> None:
    answer = ask(small, path, **fields, stream=stream)

    error = answer.json["error"]
    assert (answer.status, error["type"], error.get("param")) == (400, "invalid_request_error", param)
    assert error.get("code") == (None if param is None else "context_length_exceeded")
    assert f"{TOLD}{given}." in error["message"]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/embeddings", {"input": LONG}, "input"),
        ("/v1/embeddings", {"input": ["a", [7] * (LIMIT + 1)]}, "input"),
        ("/v1/embeddings", {"input": [[7], [7] * (LIMIT + 1)]}, "input[1]"),
        ("/v1/rerank", {"query": LONG, "documents": ["a"]}, "query"),
        ("/v1/rerank", {"query": "a", "documents": ["b", {"text": LONG}]}, "documents[1]"),
    ],
)
def test_no_text_is_shortened_to_be_embedded(
    small: ServerProcess, path: str, fields: dict[str, Any], param: str
) -> None:
    answer = ask(small, path, **fields)

    assert (answer.status, answer.json["error"]["param"]) == (400, param)


def test_a_text_that_just_fits_is_embedded(small: ServerProcess) -> None:
    assert ask(small, "/v1/embeddings", input=[7] * LIMIT).json["usage"]["prompt_tokens"] == LIMIT


def test_all_tokens_are_counted_also_those_that_do_not_fit(small: ServerProcess) -> None:
    asked: list[tuple[str, str, dict[str, Any], int]] = [
        ("/tokenize", "count", {"prompt": LONG}, 280),
        ("/tokenize", "count", {"messages": said(LONG)}, 283),
        ("/v1/messages/count_tokens", "input_tokens", {"messages": said(LONG)}, 283),
        ("/v1/responses/input_tokens", "input_tokens", {"input": LONG}, 283),
    ]
    assert [ask(small, path, **fields).json[name] for path, name, fields, _ in asked] == [each[-1] for each in asked]


def test_an_answer_that_fills_the_context_ends_with_length(small: ServerProcess) -> None:
    chat = {"messages": said(STORY), "temperature": 0, "ignore_eos": True}
    whole = ask(small, "/v1/chat/completions", **chat).json
    streamed = events(ask(small, "/v1/chat/completions", **chat, stream=True, stream_options={"include_usage": True}))
    assert whole["choices"][0]["finish_reason"] == streamed[-2]["choices"][0]["finish_reason"] == "length"
    assert [(u["prompt_tokens"], u["completion_tokens"]) for u in (whole["usage"], streamed[-1]["usage"])] == [
        (51, LIMIT - 51)
    ] * 2

    text = {"prompt": [7] * (LIMIT - 3), "ignore_eos": True}
    whole = ask(small, "/v1/completions", **text).json
    streamed = events(ask(small, "/v1/completions", **text, stream=True, stream_options={"include_usage": True}))
    assert whole["choices"][0]["finish_reason"] == streamed[-2]["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == streamed[-1]["usage"]["completion_tokens"] == 3


def test_a_response_that_fills_the_context_is_incomplete(small: ServerProcess) -> None:
    asked = {"input": STORY, "temperature": 0}
    for told in (
        ask(small, "/v1/responses", **asked).json,
        events(ask(small, "/v1/responses", **asked, stream=True))[-1]["response"],
    ):
        assert (told["status"], told["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
        assert (told["usage"]["input_tokens"], told["usage"]["output_tokens"]) == (51, LIMIT - 51)


@pytest.mark.parametrize(
    ("max_tokens", "reason", "tokens"),
    [
        (5, "max_tokens", 5),
        (LIMIT - 51, "max_tokens", LIMIT - 51),
        (32_000, "model_context_window_exceeded", LIMIT - 51),
    ],
)
def test_a_message_that_fills_the_context_says_so_in_its_own_words(
    small: ServerProcess, max_tokens: int, reason: str, tokens: int
) -> None:
    asked = {"messages": said(STORY), "temperature": 0, "max_tokens": max_tokens}
    whole = ask(small, "/v1/messages", **asked).json
    delta = events(ask(small, "/v1/messages", **asked, stream=True))[-2]

    assert (whole["stop_reason"], delta["delta"]["stop_reason"]) == (reason, reason)
    assert (whole["usage"]["output_tokens"], delta["usage"]["output_tokens"]) == (tokens, tokens)


def test_a_batch_is_told_the_same(small: ServerProcess) -> None:
    texts = {"fits": [7] * (LIMIT - 3), "long": [7] * LIMIT}
    lines = [
        {
            "custom_id": name, "method": "POST", "url": "/v1/completions",
            "body": {"model": "amuse-draft", "prompt": tokens, "ignore_eos": True},
        }
        for name, tokens in texts.items()
    ]  # fmt: skip
    answered = batch(small, "\n".join(json.dumps(line) for line in lines))

    fits, long = answered["fits"]["response"], answered["long"]["response"]
    assert (fits["status_code"], fits["body"]["choices"][0]["finish_reason"]) == (200, "length")
    assert fits["body"]["usage"]["completion_tokens"] == 3
    assert (long["status_code"], long["body"]["error"]["code"]) == (400, "context_length_exceeded")


def batch(server: ServerProcess, lines: str) -> dict[str, Any]:
    """The results of a batch of completions by their custom ids."""
    form = (
        '--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\n'
        f'Content-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n{lines}\r\n--b--\r\n'
    )
    file = server.ask("POST", "/v1/files", form.encode(), content_type="multipart/form-data; boundary=b").json
    asked = {"input_file_id": file["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
    path = f"/v1/batches/{server.ask('POST', '/v1/batches', asked).json['id']}"
    eventually(lambda: bool(server.ask("GET", path).json["status"] == "completed"), "the batch")
    done = server.ask("GET", path).json
    kept = [server.ask("GET", f"/v1/files/{done[kind]}/content").body for kind in ("output_file_id", "error_file_id")]
    return {each["custom_id"]: each for each in map(json.loads, b"".join(kept).splitlines())}
