"""What a deployment tells of itself; a batch takes no place from others where it pauses for them."""

import asyncio

import pytest

from servery.config.types import Kind
from servery.engine.request import BACKGROUND
from servery.gateway.dispatch.deployment import Deployment
from servery.upstream.upstream import Health
from tests.gateway.scripted import Scripted, deployment


@pytest.mark.parametrize(("kind", "taken"), [(Kind.EMBEDDED, 0), (Kind.VLLM, 1)])
def test_only_elsewhere_does_the_background_hold_a_place(kind: Kind, taken: int) -> None:
    async def story() -> None:
        place = Deployment(deployment("a", kind=kind, max_concurrency=2), Scripted(()), lambda: 0.0)
        batch = await place.enter(BACKGROUND)
        assert place.slots.in_flight == taken
        chat = await place.enter(0)
        assert place.slots.in_flight == taken + 1
        batch.succeed()
        assert place.slots.in_flight == 1
        chat.succeed()
        assert place.slots.in_flight == 0

    asyncio.run(story())


def test_any_number_of_a_batch_s_requests_leave_an_engine_s_only_place_free() -> None:
    async def story() -> None:
        place = Deployment(deployment("a", kind=Kind.EMBEDDED, max_concurrency=1), Scripted(()), lambda: 0.0)
        batch = [await place.enter(BACKGROUND) for _ in range(16)]
        chat = await place.enter(0)
        for lease in (*batch, chat):
            lease.succeed()
        assert (place.slots.in_flight, place.slots.predicted_wait_s) == (0, 0.0)

    asyncio.run(story())


@pytest.mark.parametrize(
    ("health", "is_missed"),
    [
        (Health(True, "it answers", 0.0), False),
        (Health(False, "its health cannot be asked", 9.0, is_alive=False), True),
        (Health(False, "it was unloaded", 0.0, is_wanted=False), False),
    ],
)
def test_a_deployment_that_takes_no_requests_is_missed_unless_it_was_unloaded(health: Health, is_missed: bool) -> None:
    upstream = Scripted(())
    upstream.state = health
    assert Deployment(deployment("a"), upstream, lambda: 0.0).is_missed is is_missed
