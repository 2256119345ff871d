"""`POST /v1/chat/completions`, `/v1/completions`, `/v1/embeddings`, `/v1/rerank`, `/v1/messages`: what a model answers."""

import secrets
import time

from servery.server.answer_record import AnswerRecord
from servery.server.relay import relay_stream, relay_whole, watched
from servery.server.service import Exchange, Service
from servery.upstream.upstream import Call, ModelRequest
from servery.wire.anthropic import decode_anthropic
from servery.wire.anthropic_answer import AnthropicForm
from servery.wire.chat import decode_chat
from servery.wire.completions import decode_completion
from servery.wire.embeddings import EmbeddingRequest, decode_embedding
from servery.wire.message import AnswerForm
from servery.wire.rerank import RerankRequest, decode_rerank


async def chat(service: Service, exchange: Exchange) -> None:
    """Continue a chat."""
    request = service.addressed(decode_chat(await exchange.body(service.options)))
    await answer(service, exchange, request, _id("chatcmpl"))


async def completion(service: Service, exchange: Exchange) -> None:
    """Continue a text."""
    request = service.addressed(decode_completion(await exchange.body(service.options)))
    await answer(service, exchange, request, _id("cmpl"))


async def embedding(service: Service, exchange: Exchange) -> None:
    """Turn texts into vectors."""
    request = service.addressed(decode_embedding(await exchange.body(service.options)))
    await answer(service, exchange, request, _id("embd"))


async def ranking(service: Service, exchange: Exchange) -> None:
    """Rank documents by a query."""
    request = service.addressed(decode_rerank(await exchange.body(service.options)))
    await answer(service, exchange, request, _id("rerank"))


async def message(service: Service, exchange: Exchange) -> None:
    """Continue a conversation, in Anthropic's words."""
    request = service.addressed(decode_anthropic(await exchange.body(service.options)))
    answer_id = f"msg_{secrets.token_hex(12)}"
    await answer(
        service, exchange, request.chat(), answer_id, AnthropicForm(answer_id, request.model, request.max_tokens)
    )


async def answer(
    service: Service, exchange: Exchange, request: ModelRequest, answer_id: str, form: AnswerForm | None = None
) -> None:
    """Have `request` answered by its model, in `form`, and sent as it comes or whole."""
    upstream = service.upstream(request.model)
    arrived_s = exchange.request.arrived_s
    call = Call(
        answer_id=answer_id,
        created=int(time.time()),
        deadline=arrived_s + service.options.request_timeout_s,
        form=form,
    )
    exchange.record = record = AnswerRecord(
        service.metrics, upstream.name, arrived_s, service.clock, shown=request.model
    )
    async with watched(exchange):
        chunks = upstream.answer(request, call)
        if isinstance(request, EmbeddingRequest | RerankRequest) or not request.stream:
            await relay_whole(chunks, exchange.reply, record)
        else:
            await relay_stream(chunks, exchange.reply, record, service.options.keep_alive_s)


def _id(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(16)}"
