"""An answer that declines to answer is an answer, unless another model may judge otherwise."""

from typing import Any

import pytest

from servery.config.types import Fallbacks, ModelConfig, Place
from servery.upstream.failure import Kind, UpstreamFailure
from servery.upstream.upstream import Chunk
from servery.wire.errors import ApiError
from servery.wire.usage import Usage
from tests.gateway.scripted import Scripted, Stage, Step, piece
from tests.gateway.virtual_time import run

HEAD = Chunk(data=b"data: head\n\n")
END = Chunk(usage=Usage.of(3, 2, 0))
SORRY = piece("sorry", is_refusal=True)
MORE = piece("no")
FILTERED = Chunk(data=b"data: filtered\n\n", finish_reason="content_filter")
ANSWER = (HEAD, piece("yes"), END)
IN_WORDS = (HEAD, SORRY, MORE, Chunk(data=b"data: stop\n\n", finish_reason="stop"), END)
BY_FILTER = (HEAD, FILTERED, END)
REFUSALS = pytest.mark.parametrize("refusal", [IN_WORDS, BY_FILTER], ids=["in words", "by filter"])


def stage(first: tuple[Step, ...], second: tuple[Step, ...], *, falls_back: bool = True) -> Stage:
    """Model `m` at `a`, for which `n` at `b` stands in where content is refused."""
    chain = ("n",) if falls_back else ()
    models = [
        ModelConfig(name="m", tiers=(("a",),), place=Place.FIRST, fallbacks=Fallbacks(content_policy=chain)),
        ModelConfig(name="n", tiers=(("b",),), place=Place.FIRST),
    ]
    return Stage({"a": Scripted(first), "b": Scripted(second)}, models=models)


def said(script: tuple[Step, ...]) -> bytes:
    return b"".join(step.data for step in script if isinstance(step, Chunk))


@REFUSALS
def test_a_refusal_of_which_the_client_has_read_nothing_is_another_models_to_answer(refusal: Any) -> None:
    async def story() -> None:
        made = stage(refusal, ANSWER)
        told = await made.ask()
        assert (told.status, told.client.data, told.client.is_ended) == (200, said(ANSWER), True)
        row = told.row
        assert (row.served_model, row.deployment, row.attempts, row.generated_tokens) == ("n", "b", 2, 2)
        assert made.gateway.fleet.deployments["a"].breaker.failure_rate(1e6) == (0.0, 0)
        assert [each.slots.in_flight for each in made.gateway.fleet.deployments.values()] == [0, 0]

    run(story)


@REFUSALS
def test_without_another_model_it_is_passed_on_as_it_comes(refusal: Any) -> None:
    async def story() -> None:
        told = await stage(refusal, ANSWER, falls_back=False).ask()
        assert (told.client.writes[0], told.client.data) == (HEAD.data, said(refusal))

    run(story)


@REFUSALS
@pytest.mark.parametrize(
    "second",
    [
        (UpstreamFailure(Kind.REFUSED, "nobody listens"),),
        (ApiError(400, "no", code="content_filter"),),
        (HEAD, UpstreamFailure(Kind.CUT, "cut"),),
    ],
    ids=["away", "refuses too", "cut"],
)  # fmt: skip
def test_if_nobody_else_answers_the_client_has_the_refusal_after_all(refusal: Any, second: Any) -> None:
    async def story() -> None:
        told = await stage(refusal, second).ask()
        if second[0] is HEAD:  # it had begun to answer
            assert (told.status, told.client.data) == (502, HEAD.data)
            return
        assert (told.status, told.client.data, told.client.is_ended) == (200, said(refusal), True)
        row = told.row
        assert (row.outcome, row.served_model, row.deployment) == ("completed", "m", "a")
        assert row.generated_tokens == 2
        assert dict(told.client.headers)["x-servery-deployment"] == "a"

    run(story)


def test_what_is_refused_behind_the_first_word_is_an_answer_that_was_cut_by_a_filter() -> None:
    async def story() -> None:
        told = await stage((HEAD, MORE, SORRY, FILTERED, END), ANSWER).ask()
        assert (told.row.served_model, told.client.data) == ("m", HEAD.data + said((MORE, SORRY, FILTERED)))
        assert told.client.writes[0] == HEAD.data + MORE.data  # until then nothing was sent

    run(story)


def test_whole_answers_are_judged_as_a_whole() -> None:
    async def story() -> None:
        body = Chunk(data=b'{"refusal":"no"}', is_refusal=True, usage=Usage.of(3, 2, 0))
        told = await stage((body,), (Chunk(data=b"{}"),)).ask(stream=False)
        assert (told.client.data, told.row.served_model) == (b"{}", "n")
        told = await stage((body,), (UpstreamFailure(Kind.REFUSED, "away"),)).ask(stream=False)
        assert (told.client.data, told.row.served_model, told.row.generated_tokens) == (body.data, "m", 2)
        told = await stage((body,), (Chunk(data=b"{}"),), falls_back=False).ask(stream=False)
        assert told.client.data == body.data

    run(story)


def test_a_refusal_longer_than_any_is_not_held_for_ever() -> None:
    async def story() -> None:
        long = Chunk(data=b"x" * (1 << 19), tokens=1, is_refusal=True)
        made = stage((HEAD, long, long, long, END), ANSWER)
        told = await made.ask()
        assert (told.row.served_model, len(told.client.data)) == ("m", len(HEAD.data) + 3 * (1 << 19))

    run(story)
