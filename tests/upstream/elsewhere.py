"""Deployments that a test's own server plays, and what asks them."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from servery.config.types import DeploymentConfig, Kind, Tier
from servery.gateway.dispatch.late_form import LateForm
from servery.http.client import HttpClient
from servery.upstream.ask import Api, Ask, read_head
from servery.upstream.kinds import remote_upstream
from servery.upstream.remote import RemoteUpstream
from servery.upstream.upstream import Call, Chunk
from tests.upstream.test_ask import Remembered

HI = [{"role": "user", "content": "hi"}]
BODIES: dict[Api, dict[str, Any]] = {
    Api.CHAT: {"messages": HI},
    Api.COMPLETIONS: {"prompt": "hi"},
    Api.EMBEDDINGS: {"input": "hi"},
    Api.RERANK: {"query": "hi", "documents": ["a"]},
    Api.MESSAGES: {"messages": HI, "max_tokens": 50},
    Api.RESPONSES: {"input": "hi"},
}
OWN_APIS = {Kind.ANTHROPIC: {"messages"}, Kind.BEDROCK: set[str]()}


def deployment(kind: Kind, url: str | None, **fields: Any) -> DeploymentConfig:
    """A deployment `there` of a model that it calls `theirs`."""
    apis = frozenset(fields.pop("apis", OWN_APIS.get(kind, {"chat", "completions", "embeddings", "responses"})))
    config: dict[str, Any] = {"name": "there", "tier": Tier.API, "model": "theirs", "apis": apis, **fields}
    return DeploymentConfig(kind=kind, url=url, **config)


def ask(api: Api, headers: tuple[tuple[str, str], ...] = (), *, is_known: bool = False, **fields: Any) -> Ask:
    """A client's request, which knows the model as `mine`."""
    body = json.dumps({"model": "mine", **BODIES[api], **fields}).encode()
    return Ask(
        api=api, body=body, head=read_head(body), model="mine", base="mine", answer_id="id", created=5,
        pass_headers=headers, conversation=Remembered(is_known=is_known) if api is Api.RESPONSES else None,
    )  # fmt: skip


@asynccontextmanager
async def upstream(config: DeploymentConfig) -> AsyncIterator[RemoteUpstream]:
    """What speaks to the deployment, not started: it answers, but probes nothing."""
    client = HttpClient()
    try:
        yield remote_upstream(config, lambda: client)
    finally:
        await client.aclose()


async def answer(config: DeploymentConfig, asked: Ask, **call: Any) -> list[Chunk]:
    """All pieces of one answer, which nobody has begun to read unless it is `continued`."""
    if asked.api.is_chat and "continued" not in call:
        call.setdefault("form", LateForm(asked.form))
    async with upstream(config) as there:
        return [chunk async for chunk in there.answer(asked, Call(id="1", **call))]


def said(chunks: list[Chunk]) -> bytes:
    """What the client reads."""
    return b"".join(chunk.data for chunk in chunks)
