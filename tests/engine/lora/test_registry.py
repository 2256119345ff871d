"""A name stands for one adapter at a time; whoever has it keeps it until the end."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from servery.engine.adapter_source import AdapterInfo, AdapterSource
from servery.engine.errors import EngineDead, LoadError, UnknownAdapter
from servery.engine.lora.registry import AdapterRegistry

Story = Callable[[AdapterRegistry, list[int]], Coroutine[Any, Any, None]]


def told(story: Story) -> None:
    """Run a story with a registry and the ids that it has unloaded."""
    unloaded: list[int] = []
    asyncio.run(story(AdapterRegistry(unloaded.append), unloaded))


def source(name: str) -> AdapterSource:
    return AdapterSource(name, Path("/adapters") / name)


def info(adapter_id: int, name: str) -> AdapterInfo:
    return AdapterInfo(adapter_id=adapter_id, name=name, rank=4, num_modules=1, nbytes=8)


def load(registry: AdapterRegistry, name: str) -> int:
    adapter_id, _ = registry.begin(source(name))
    registry.succeed(info(adapter_id, name))
    return adapter_id


def test_an_adapter_can_be_named_once_it_is_loaded() -> None:
    async def story(registry: AdapterRegistry, _: list[int]) -> None:
        adapter_id, loaded = registry.begin(source("a"))
        with pytest.raises(UnknownAdapter, match="no adapter named 'a' is loaded; loaded are: none"), registry.use("a"):
            pass
        registry.succeed(info(adapter_id, "a"))
        assert await loaded == info(adapter_id, "a")
        with registry.use("a") as used:
            assert used == adapter_id
        assert registry.loaded == {"a": info(1, "a")}
        with pytest.raises(UnknownAdapter, match="no adapter named 'b' is loaded; loaded are: 'a'"), registry.use("b"):
            pass

    told(story)


def test_a_name_is_taken_from_the_moment_it_is_asked_for() -> None:
    async def story(registry: AdapterRegistry, _: list[int]) -> None:
        registry.begin(source("a"))
        with pytest.raises(LoadError, match="'a' is loaded already, or being loaded; unload it first"):
            registry.begin(source("a"))

    told(story)


def test_one_that_could_not_be_loaded_leaves_its_name_free() -> None:
    async def story(registry: AdapterRegistry, unloaded: list[int]) -> None:
        adapter_id, loaded = registry.begin(source("a"))
        registry.fail(adapter_id, LoadError("it is damaged"))
        with pytest.raises(LoadError, match="it is damaged"):
            await loaded
        assert load(registry, "a") != adapter_id
        assert unloaded == []

    told(story)


def test_memory_goes_with_the_last_user_of_a_retired_adapter() -> None:
    async def story(registry: AdapterRegistry, unloaded: list[int]) -> None:
        first = load(registry, "a")
        with registry.use("a"), registry.use("a"):
            assert registry.retire("a") == 2
            assert (registry.loaded, unloaded) == ({}, [])
            second = load(registry, "a")  # the name is free at once, and stands for another adapter
            with registry.use("a") as used:
                assert used == second != first
            assert unloaded == []
        assert unloaded == [first]
        assert registry.retire("a") == 0
        assert unloaded == [first, second]
        with pytest.raises(UnknownAdapter):
            registry.retire("a")

    told(story)


def test_a_new_process_has_to_load_what_can_be_named() -> None:
    async def story(registry: AdapterRegistry, unloaded: list[int]) -> None:
        kept, _ = load(registry, "kept"), load(registry, "gone")
        _, loading = registry.begin(source("loading"))
        registry.retire("gone")
        registry.fail_unfinished(EngineDead("it died"))
        with pytest.raises(EngineDead, match="it died"):
            await loading
        assert registry.sources == [(kept, source("kept"))]
        registry.succeed(info(kept, "kept"))  # loaded again, under the same id
        assert registry.loaded == {"kept": info(kept, "kept")}
        registry.fail(kept, LoadError("its folder is gone"))
        assert registry.loaded == {}

    told(story)


def test_what_is_said_of_ids_that_nobody_knows_changes_nothing() -> None:
    async def story(registry: AdapterRegistry, unloaded: list[int]) -> None:
        registry.fail(7, LoadError("x"))
        registry.succeed(info(7, "x"))
        assert (registry.loaded, unloaded) == ({}, [])

    told(story)
