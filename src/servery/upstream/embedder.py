"""Vectors of texts from the engine, and answers made of them."""

import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import NamedTuple

from servery.engine.engine import AsyncEngine
from servery.engine.request import NewRequest
from servery.upstream.engine_errors import engine_errors
from servery.upstream.merge import merge
from servery.upstream.prompt import PromptEncoder
from servery.upstream.upstream import Call, Chunk
from servery.wire.embeddings import unit_vector
from servery.wire.errors import context_length_exceeded


class Input(NamedTuple):
    """A text, or token ids, and the parameter that it came in."""

    text: str | list[int]
    param: str


class Embedder:
    """The mean of the final hidden states, scaled to length 1; `at_a_time` inputs of one request are computed at once."""

    def __init__(self, engine: AsyncEngine, encoder: PromptEncoder, at_a_time: int) -> None:
        self._engine = engine
        self._encoder = encoder
        self._at_a_time = at_a_time

    async def answer(
        self,
        inputs: Sequence[Input],
        call: Call,
        encode: Callable[[list[list[float]], int], bytes],
        dimensions: int | None = None,
    ) -> AsyncGenerator[Chunk, None]:
        """Pieces that tell of progress, and at the end what `encode` makes of all vectors and the number of tokens.

        Raises `ApiError`, before anything is computed if an input is longer than the context.
        """
        token_ids = [await self._encoder.text(each.text, each.param) for each in inputs]
        limit = self._engine.info.max_model_len
        for each, ids in zip(inputs, token_ids, strict=True):
            if len(ids) > limit:
                raise context_length_exceeded(limit, len(ids), None, each.param)
        vectors: list[list[float]] = [[]] * len(inputs)
        embedding = [self._embed(at, ids, inputs[at].param, call) for at, ids in enumerate(token_ids)]
        async with contextlib.aclosing(merge(embedding, self._at_a_time)) as embedded:
            async for at, vector in embedded:
                vectors[at] = unit_vector(vector, dimensions)
                yield Chunk(index=at, prompt_tokens=len(token_ids[at]))
        yield Chunk(data=encode(vectors, sum(map(len, token_ids))))

    async def _embed(
        self, at: int, token_ids: list[int], param: str, call: Call
    ) -> AsyncGenerator[tuple[int, list[float]], None]:
        request = NewRequest(
            request_id=f"{call.id}-{at}",
            prompt=token_ids,
            deadline=call.deadline,
            priority=call.priority,
            adapter=call.adapter,
            pooling=True,
        )
        with engine_errors(param, self._engine):
            async with contextlib.aclosing(self._engine.generate(request)) as outputs:
                async for output in outputs:
                    yield at, output.embedding
