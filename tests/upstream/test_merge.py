import asyncio
from collections.abc import AsyncGenerator

import pytest

from servery.upstream.merge import merge


class Source:
    """Counts up to `count`, then fails or waits if told so; knows whether it was closed."""

    def __init__(self, name: str, count: int, *, error: Exception | None = None, is_endless: bool = False) -> None:
        self.name, self.count, self.error, self.is_endless = name, count, error, is_endless
        self.is_closed = False

    async def items(self) -> AsyncGenerator[str, None]:
        try:
            for number in range(self.count):
                yield f"{self.name}{number}"
            if self.error is not None:
                raise self.error
            if self.is_endless:
                await asyncio.Event().wait()
        finally:
            self.is_closed = True


@pytest.mark.parametrize("counts", [[3], [3, 0, 2]])
def test_everything_comes_once_and_each_source_in_order(counts: list[int]) -> None:
    async def story() -> None:
        sources = [Source("abc"[at], count) for at, count in enumerate(counts)]
        got = [item async for item in merge([source.items() for source in sources], 2)]

        for source in sources:
            own = [item for item in got if item.startswith(source.name)]
            assert own == [f"{source.name}{number}" for number in range(source.count)]
        assert len(got) == sum(counts)

    asyncio.run(story())


def test_the_first_error_ends_it_and_closes_the_others() -> None:
    async def story() -> None:
        endless, failing = Source("a", 1, is_endless=True), Source("b", 1, error=KeyError("b"))
        with pytest.raises(KeyError):
            _ = [item async for item in merge([endless.items(), failing.items()], 2)]

        assert (endless.is_closed, failing.is_closed) == (True, True)

    asyncio.run(story())


def test_only_so_many_sources_are_under_way_at_once() -> None:
    under_way, most = 0, 0

    async def source() -> AsyncGenerator[int, None]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        yield under_way
        under_way -= 1

    async def story() -> None:
        assert len([item async for item in merge([source() for _ in range(9)], 3)]) == 9

    asyncio.run(story())
    assert most == 3


@pytest.mark.parametrize("number", [1, 2])
def test_closing_it_closes_every_source(number: int) -> None:
    async def story() -> None:
        sources = [Source("ab"[at], 1, is_endless=True) for at in range(number)]
        merged = merge([source.items() for source in sources], number)
        assert await anext(merged) == "a0"
        await asyncio.sleep(0)
        await merged.aclose()

        assert all(source.is_closed for source in sources)

    asyncio.run(story())
