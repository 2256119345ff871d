"""What goes at once goes as what is waited for: the client reads the same, and the same is counted."""

import pytest

from servery.config.types import Timeouts
from servery.upstream.failure import Kind, UpstreamFailure
from servery.upstream.upstream import Chunk
from servery.wire.errors import failed
from servery.wire.usage import Usage
from tests.gateway.scripted import Scripted, Stage, Step, Told, piece
from tests.gateway.virtual_time import run

CUT = UpstreamFailure(Kind.CUT, "cut")
WHOLE = (
    Chunk(prompt_tokens=7, cached_tokens=2, queued_s=0.25),
    piece("a"),
    0.5,
    piece("b"),
    Chunk(tokens=2),
    1.0,
    piece("c", index=1),
    Chunk(data=b"data: end\n\n", finish_reason="stop"),
    Chunk(usage=Usage.of(7, 9, 2), is_estimated=True),
    Chunk(),
)
SCRIPTS = {
    "whole": WHOLE,
    "cut": (piece("a"), 0.5, piece("b"), CUT),
    "error": (piece("a"), piece("b"), failed("broken")),
    "stall": (piece("a"), 9.0, piece("b"), 9.0, Chunk(tokens=1), 9.0, piece("c"), 11.0, piece("d")),
    "silence": (piece("a"), 14.0, piece("b"), 14.0, piece("c"), 16.0, piece("d")),
}


@pytest.mark.parametrize("script", list(SCRIPTS))
@pytest.mark.parametrize("pace_s", [0.0, 0.125])
def test_pieces_that_go_at_once_and_pieces_that_are_waited_for_are_told_and_counted_alike(
    script: str, pace_s: float
) -> None:
    assert story(SCRIPTS[script], pace_s, pours=True) == story(SCRIPTS[script], pace_s, pours=False)


def story(script: tuple[Step, ...], pace_s: float, *, pours: bool) -> tuple[object, ...]:
    found: list[tuple[object, ...]] = []

    async def told() -> None:
        timeouts = Timeouts(stall_s=10.0 if script is SCRIPTS["stall"] else 100.0)
        stage = Stage({"a": Scripted(script, pours=pours)}, model={"timeouts": timeouts})
        asked = await stage.ask(pace_s=pace_s)
        shown = stage.metrics.render().decode().splitlines()
        found.append((*seen(asked), [line for line in shown if "process_" not in line]))

    run(told)
    return found[0]


def seen(told: Told) -> tuple[object, ...]:
    client, message = told.client, None if told.error is None else told.error.message
    return client.writes, client.comments, client.is_ended, message, told.row._replace(at_s=0.0), told.took_s
