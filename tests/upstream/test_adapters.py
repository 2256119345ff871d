"""A request for `base:adapter` is computed with that adapter, which stays until the answer is over."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest

from servery.engine.errors import LoadError
from servery.engine.request import FinishReason
from servery.upstream.ask import ModelRequest
from servery.upstream.upstream import Call, Chunk
from servery.wire.chat import decode_chat
from servery.wire.completions import decode_completion
from servery.wire.embeddings import decode_embedding
from servery.wire.errors import ApiError
from tests.upstream.fake_engine import FakeEngine, asking, out, save_checkpoint, started

CALL = Call(id="id")


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(story())  # type: ignore[arg-type]


def requests(model: str) -> list[ModelRequest]:
    chat = {"model": model, "messages": [{"role": "user", "content": "x"}]}
    return [
        decode_chat(msgspec.json.encode(chat)),
        decode_completion(msgspec.json.encode({"model": model, "prompt": ["a", "b"]})),
        decode_embedding(msgspec.json.encode({"model": model, "input": "x"})),
    ]


def test_every_kind_of_request_carries_the_adapter_s_id(tmp_path: Path) -> None:
    async def story() -> None:
        engine = FakeEngine(save_checkpoint(tmp_path), out("hi", end=FinishReason.STOP, embedding=[1.0, 0, 0, 0]))
        upstream = await started(engine)
        await upstream.load_adapter("sql", tmp_path)
        for model in ("m:sql", "sql", "m"):
            for request in requests(model):
                chunks = [chunk async for chunk in upstream.answer(asking(request, CALL), CALL)]
                assert msgspec.json.decode(b"".join(chunk.data for chunk in chunks))["model"] == model
        assert [request.adapter for request in engine.requests] == [1] * 8 + [0] * 4
        assert upstream.adapter_uses() == {"sql": 6}
        (model,) = upstream.adapters().values()
        assert (model.id, model.root, model.parent, model.max_model_len) == ("m:sql", "m", "m", 100)

    run(story)


def test_an_answer_under_way_keeps_its_adapter(tmp_path: Path) -> None:
    async def story() -> None:
        gate = asyncio.Event()
        engine = FakeEngine(save_checkpoint(tmp_path), out("a"), gate, out("b", end=FinishReason.STOP))
        upstream = await started(engine)
        await upstream.load_adapter("sql", tmp_path)

        async def answer() -> list[Chunk]:
            return [chunk async for chunk in upstream.answer(asking(requests("m:sql")[0], CALL), CALL)]

        answering = asyncio.create_task(answer())
        await engine.until_taken(1)
        assert upstream.unload_adapter("sql") == 1
        assert (upstream.adapters(), engine.unloaded) == ({}, [])
        with pytest.raises(ApiError, match="No adapter named 'sql' is loaded; loaded are: none") as refused:
            await answer()
        assert (refused.value.status, refused.value.code, refused.value.param) == (404, "model_not_found", "model")
        gate.set()
        assert (await answering)[-1].data
        assert engine.unloaded == [1]

    run(story)


def test_a_client_that_leaves_lets_go_of_its_adapter(tmp_path: Path) -> None:
    async def story() -> None:
        engine = FakeEngine(save_checkpoint(tmp_path), out("a"), asyncio.Event())
        upstream = await started(engine)
        await upstream.load_adapter("sql", tmp_path)
        async with aclosing(upstream.answer(asking(requests("m:sql")[0], CALL), CALL)) as chunks:
            await anext(chunks)
        assert upstream.unload_adapter("sql") == 0
        assert engine.unloaded == [1]

    run(story)


def test_a_setting_of_the_engine_is_called_as_its_operator_typed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise LoadError("adapter 'b' has no place: 1 are held, 'a', and max_loras is 1; unload one")

    async def story() -> None:
        engine = FakeEngine(save_checkpoint(tmp_path))
        upstream = await started(engine)
        monkeypatch.setattr(engine, "load_adapter", full)
        with pytest.raises(ApiError, match="'b' has no place: 1 are held, 'a', and --max-loras is 1; unload one"):
            await upstream.load_adapter("b", tmp_path)

    run(story)


def test_an_adapter_that_cannot_be_loaded_is_the_client_s_error(tmp_path: Path) -> None:
    async def story() -> None:
        upstream = await started(FakeEngine(save_checkpoint(tmp_path)))
        await upstream.load_adapter("taken", tmp_path)
        for name, path, param, message in (
            ("sql", tmp_path / "no", "lora_path", "^The adapter 'sql' cannot be loaded: no is not a folder"),
            ("a:b", tmp_path, "lora_name", "the adapter's name 'a:b' cannot be used"),
            ("taken", tmp_path, "lora_name", "an adapter named 'taken' is loaded already, or"),
        ):
            with pytest.raises(ApiError, match=message) as refused:
                await upstream.load_adapter(name, path)
            assert (refused.value.status, refused.value.param) == (400, param)
        with pytest.raises(ApiError, match="No adapter named 'no' is loaded; loaded are: 'taken'") as unknown:
            upstream.unload_adapter("no")
        assert (unknown.value.status, unknown.value.param) == (404, "lora_name")

    run(story)
