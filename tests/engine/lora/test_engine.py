"""Adapters of an engine process: loaded with it, loaded and unloaded while it runs, and there again when it died."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from servery.engine.adapter_source import AdapterSource
from servery.engine.config import EngineConfig
from servery.engine.engine import AsyncEngine
from servery.engine.engine_state import EngineState
from servery.engine.errors import EngineDead, LoadError, UnknownAdapter
from servery.engine.request import NewRequest, SamplingParams
from tests.engine import checkpoints
from tests.engine.lora import adapters

PROMPT = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.save(checkpoints.qwen3(), tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("adapters")
    return [adapters.save(root / str(seed), checkpoints.qwen3(), seed=seed) for seed in (1, 2)]


@asynccontextmanager
async def started(base: Path, **changes: object) -> AsyncIterator[AsyncEngine]:
    engine = AsyncEngine(EngineConfig(model=base, threads=1, max_model_len=256, **changes))  # type: ignore[arg-type]
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


def request(name: str, adapter: int, **params: object) -> NewRequest:
    settings = SamplingParams(**{"max_tokens": 8, "ignore_eos": True, "temperature": 0.0, **params})  # type: ignore[arg-type]
    return NewRequest(request_id=name, prompt=PROMPT, params=settings, adapter=adapter)


async def tokens(engine: AsyncEngine, name: str | None) -> list[int]:
    if name is None:
        return [token async for output in engine.generate(request("r", 0)) for token in output.token_ids]
    with engine.adapters.use(name) as adapter:
        one = request(f"r-{name}", adapter)
        return [token async for output in engine.generate(one) for token in output.token_ids]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - news of another process come by heartbeat, not by an event
            await asyncio.sleep(0.01)


def held_bytes(engine: AsyncEngine) -> int:
    return -1 if engine.stats is None else engine.stats.adapter_bytes


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(story())  # type: ignore[arg-type]


def test_adapters_come_and_go_while_the_engine_runs(base: Path, folders: list[Path]) -> None:
    async def story() -> None:
        async with started(base, adapters=(AdapterSource("one", folders[0]),), max_loras=2) as engine:
            plain, one = await tokens(engine, None), await tokens(engine, "one")
            info = await engine.load_adapter(AdapterSource("two", folders[1]))
            two = await tokens(engine, "two")
            assert len({tuple(plain), tuple(one), tuple(two)}) == 3
            assert (info.name, info.rank) == ("two", 4)
            with pytest.raises(LoadError, match="'three' has no place: 2 are held, 'one', 'two', and max_loras is 2"):
                await engine.load_adapter(AdapterSource("three", folders[0]))
            assert engine.unload_adapter("one") == 0
            with pytest.raises(UnknownAdapter, match="loaded are: 'two'"):
                await tokens(engine, "one")
            await engine.load_adapter(AdapterSource("three", folders[0]))
            assert await tokens(engine, "three") == one

            # One that is in use is unloaded when its last user is done; its name is free at once.
            with engine.adapters.use("two") as adapter:
                async with aclosing(engine.generate(request("long", adapter, max_tokens=60))) as outputs:
                    first = (await anext(outputs)).token_ids
                    assert engine.unload_adapter("two") == 1
                    assert engine.unload_adapter("three") == 0
                    await engine.load_adapter(AdapterSource("two", folders[0]))
                    assert await tokens(engine, "two") == one
                    rest = [token async for output in outputs for token in output.token_ids]
                assert (first + rest)[:8] == two
                assert len(first + rest) == 60
                assert engine.adapters.loaded.keys() == {"two"}
            await until(lambda: held_bytes(engine) == info.nbytes)

            with pytest.raises(LoadError, match="is not a folder"):
                await engine.load_adapter(AdapterSource("four", base / "nowhere"))
            assert await tokens(engine, None) == plain

            # One whose caller goes away meanwhile is loaded all the same.
            asking = asyncio.create_task(engine.load_adapter(AdapterSource("five", folders[1])))
            await asyncio.sleep(0)
            asking.cancel()
            await until(lambda: "five" in engine.adapters.loaded)
            assert await tokens(engine, "five") == two

    run(story)


def test_adapters_survive_the_engine_s_death(base: Path, folders: list[Path], tmp_path: Path) -> None:
    async def story() -> None:
        vanishing = shutil.copytree(folders[1], tmp_path / "vanishing")
        async with started(base, adapters=(AdapterSource("one", folders[0]),), max_loras=2) as engine:
            one = await tokens(engine, "one")
            await engine.load_adapter(AdapterSource("vanishing", vanishing))
            shutil.rmtree(vanishing)
            os.kill(engine.info.pid, signal.SIGKILL)
            await until(lambda: engine.state is EngineState.RESTARTING)
            with pytest.raises(EngineDead):
                engine.unload_adapter("one")
            with pytest.raises(EngineDead):
                await engine.load_adapter(AdapterSource("two", folders[1]))
            await until(lambda: engine.is_ready)
            assert await tokens(engine, "one") == one
            assert engine.adapters.loaded.keys() == {"one"}  # the other's folder is gone, the engine lives
            await engine.load_adapter(AdapterSource("two", folders[1]))

    run(story)


def test_an_engine_does_not_start_without_the_adapters_it_was_given(base: Path, tmp_path: Path) -> None:
    async def story() -> None:
        engine = AsyncEngine(EngineConfig(model=base, threads=1, adapters=(AdapterSource("a", tmp_path),)))
        with pytest.raises(LoadError, match=r"has no adapter_config\.json"):
            await engine.start()
        assert not engine.is_ready
        await engine.stop()

    run(story)
