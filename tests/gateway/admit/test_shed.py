import asyncio

from servery.config.types import Fallbacks, ModelConfig, Place, Retry, Timeouts
from servery.engine.request import BACKGROUND
from tests.gateway.scripted import Scripted, Stage, piece
from tests.gateway.virtual_time import run


def test_a_wait_that_would_be_too_long_is_refused_at_once_with_the_time_it_would_take() -> None:
    async def story() -> None:
        stage = Stage(
            {"a": Scripted((8.0, piece("a")))},
            deployments={"a": {"max_concurrency": 1}},
            model={"timeouts": Timeouts(first_token_s=20.0), "retry": Retry(attempts=1)},
        )
        await stage.ask()  # from now on it is known that a place is held for 8 s
        tolds = await asyncio.gather(*[stage.ask() for _ in range(5)])
        assert [(told.status, told.took_s) for told in tolds] == [
            (200, 8.0),
            (200, 16.0),
            (200, 24.0),
            (429, 0.0),
            (429, 0.0),
        ]
        error = tolds[-1].error
        assert error is not None
        assert (error.retry_after_s, error.message) == (
            24, "The model 'm' is busy: a new request would wait about 24.0 s for its turn, and at most 20 s are allowed.",
        )  # fmt: skip
        assert [told.row.outcome for told in tolds[3:]] == ["refused", "refused"]

    run(story)


def test_a_model_that_stands_in_takes_what_would_be_refused_as_long_as_it_has_a_place() -> None:
    async def story() -> None:
        models = [
            ModelConfig(
                name="m", tiers=(("a",),), place=Place.FIRST, fallbacks=Fallbacks(error=("n",)),
                timeouts=Timeouts(first_token_s=20.0), retry=Retry(attempts=1),
            ),
            ModelConfig(name="n", tiers=(("b",),), place=Place.FIRST),
        ]  # fmt: skip
        one = {"max_concurrency": 1}
        stage = Stage(
            {name: Scripted((8.0, piece(name))) for name in "ab"}, models=models, deployments={"a": one, "b": one}
        )
        await stage.ask()
        tolds = await asyncio.gather(*[stage.ask() for _ in range(5)])
        served = [(told.status, told.row.served_model, told.took_s) for told in tolds]
        assert served[:4] == [(200, "m", 8.0), (200, "m", 16.0), (200, "m", 24.0), (200, "n", 8.0)]
        assert tolds[4].status == 429

    run(story)


def test_requests_in_the_background_do_not_wait_for_a_place() -> None:
    async def story() -> None:
        stage = Stage(
            {"a": Scripted((8.0, piece("a")))},
            deployments={"a": {"max_concurrency": 1}},
            model={"retry": Retry(attempts=1)},
        )
        await stage.ask()
        interactive = asyncio.create_task(stage.ask())
        await asyncio.sleep(1.0)
        assert (await stage.ask(priority=BACKGROUND)).status == 429
        assert (await interactive).status == 200
        assert (await stage.ask(priority=BACKGROUND)).status == 200

    run(story)


def test_one_deployment_with_a_place_is_enough() -> None:
    async def story() -> None:
        busy, free = Scripted((100.0, piece("a"))), Scripted((piece("b"),))
        stage = Stage(
            {"a": busy, "b": free},
            deployments={"a": {"max_concurrency": 1}},
            model={"timeouts": Timeouts(first_token_s=500)},
        )
        first = asyncio.create_task(stage.ask())
        await asyncio.sleep(1.0)
        assert (await stage.ask(priority=BACKGROUND)).row.deployment == "b"
        assert (await first).row.deployment == "a"

    run(story)
