"""Signatures, computed once more from AWS's specification over what the server received."""

import asyncio
import hashlib
import hmac
import json
import sys
from typing import Any
from urllib.parse import quote

import pytest

from servery.config.secret import Secret
from servery.config.types import Kind
from servery.upstream.ask import Api
from servery.upstream.failure import UpstreamFailure
from servery.upstream.providers.bedrock import address
from servery.wire.usage import Usage
from tests.scripted_server import Asked, chunk, head, json_answer, scripted
from tests.upstream.bedrock.aws import REGION, Aws
from tests.upstream.bedrock.test_answer import EVENTS, wire
from tests.upstream.elsewhere import answer, ask, deployment, said

MODEL = "eu.anthropic.claude-sonnet-4-6-v1:0"
PATH = "/model/eu.anthropic.claude-sonnet-4-6-v1%3A0/converse"
WHOLE = {"output": {"message": {"content": [{"text": "Okay"}]}}, "stopReason": "end_turn", "usage": {"inputTokens": 3, "outputTokens": 2}}  # fmt: skip


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")


def asked(*, is_stream: bool = False, **config: Any) -> tuple[Asked, list[Any]]:
    """What the deployment is sent, and what comes of it."""

    async def story() -> tuple[Asked, list[Any]]:
        frames = [head(content_type="application/vnd.amazon.eventstream"), chunk(wire(EVENTS)), chunk(b"")]
        async with scripted({PATH: [json_answer(WHOLE)], f"{PATH}-stream": [frames]}) as server:
            there = deployment(Kind.BEDROCK, server.url, model=MODEL, region=REGION, **config)
            chunks = await answer(there, ask(Api.CHAT, stream=is_stream))
            return server.asked[0], chunks

    return asyncio.run(story())


def signature(request: Asked, date: str, signed: str) -> str:
    """https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html"""
    body = json.dumps(request.body, separators=(",", ":")).encode()
    headers = "".join(f"{name}:{request.headers[name]}\n" for name in signed.split(";"))
    path = quote(request.path, safe="/-_.~")
    canonical = "\n".join([request.method, path, "", headers, signed, hashlib.sha256(body).hexdigest()])
    scope = f"{date[:8]}/{REGION}/bedrock/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", date, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = b"AWS4wJalrXUtnFEMI"
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def test_what_arrives_is_what_was_signed() -> None:
    request, chunks = asked()
    head_, _, found = request.headers["authorization"].partition(", Signature=")
    signed = head_.partition("SignedHeaders=")[2]
    date = request.headers["x-amz-date"]

    assert request.headers["x-amz-security-token"] == "token"
    assert head_.startswith(f"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{date[:8]}/{REGION}/bedrock/aws4_request, ")
    assert set(signed.split(";")) >= {"host", "x-amz-date", "x-amz-security-token"}
    assert found == signature(request, date, signed)
    assert (b'"Okay"' in said(chunks), chunks[-1].usage) == (True, Usage.of(3, 2, 0))


def test_the_path_is_that_of_awss_own_client() -> None:
    aws = Aws()
    aws.answer = json.dumps(WHOLE).encode()
    aws.converse(MODEL, {"messages": [{"role": "user", "content": [{"text": "hi"}]}]})

    assert aws.sent[0] == asked()[0].path == PATH


def test_a_stream_of_frames_becomes_a_stream_of_events() -> None:
    request, chunks = asked(is_stream=True)

    assert request.headers["accept"] == "application/vnd.amazon.eventstream"
    assert b'data: {"id":"id"' in said(chunks)
    assert b"Okay" in said(chunks)
    assert chunks[-1].usage == Usage.of(100, 9, 70)


def test_a_key_of_bedrocks_own_needs_no_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.auth", None)

    assert asked(api_key=Secret("bedrock-key"))[0].headers["authorization"] == "Bearer bedrock-key"


def test_without_credentials_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    with pytest.raises(UpstreamFailure, match="none were found: set api_key to a Bedrock API key, or give credentials"):
        asked()


def test_without_botocore_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(UpstreamFailure, match=r"or pip install 'servery\[bedrock\]'"):
        asked()


@pytest.mark.parametrize(
    ("region", "url", "found"),
    [
        ("eu-west-1", None, "https://bedrock-runtime.eu-west-1.amazonaws.com"),
        ("cn-north-1", None, "https://bedrock-runtime.cn-north-1.amazonaws.com.cn"),
        ("eu-west-1", "https://vpce-1.example/x", "https://vpce-1.example/x"),
    ],
)
def test_the_address_is_the_regions_unless_another_is_given(region: str, url: str | None, found: str) -> None:
    assert address(deployment(Kind.BEDROCK, url, region=region)) == found
