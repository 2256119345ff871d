"""The last resort: an answer of before to exactly the same, said to be one."""

from typing import Any

import msgspec
import pytest

from servery.config.types import EarlierPolicy, Fallbacks, ModelConfig, Place, Slo
from servery.upstream.ask import Api
from servery.upstream.failure import Kind, UpstreamFailure
from servery.upstream.upstream import Chunk
from servery.wire.errors import invalid
from tests.gateway.scripted import Scripted, Stage, Told, Writer
from tests.gateway.virtual_time import run

TEXT = "The answer is 42."
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 100}
GONE = UpstreamFailure(Kind.REFUSED, "nobody listens")
DAY = EarlierPolicy(max_age_s=3600.0)


class Mortal(Writer):
    """Writes until it is dead. Not streamed, it gives a body of the API."""

    is_dead = False

    async def answer(self, ask: Any, call: Any) -> Any:
        if self.is_dead:
            raise GONE
        if ask.is_stream:
            async for chunk in super().answer(ask, call):
                yield chunk
            return
        message = {"role": "assistant", "content": self.text}
        body: dict[str, Any] = {"id": "x", "model": "m", "choices": [{"index": 0, "finish_reason": "stop"}]}
        if ask.api is Api.MESSAGES:
            usage = {"input_tokens": 5, "output_tokens": 9}
            body = {"id": "x", "type": "message", "content": [{"type": "text", "text": self.text}], "usage": usage}
        elif ask.api is Api.COMPLETIONS:
            body["choices"][0]["text"] = self.text
        else:
            body["choices"][0]["message"] = message
        yield Chunk(data=msgspec.json.encode(body))


def stage(policy: EarlierPolicy | None = DAY) -> tuple[Stage, Mortal]:
    upstream = Mortal(TEXT)
    return Stage({"a": upstream}, model={"earlier": policy, "slo": Slo(ttft_s=60.0, tpot_s=60.0)}), upstream


def said(told: Told, api: Api = Api.CHAT, *, stream: bool) -> str:
    if stream and api is Api.MESSAGES:
        events = [msgspec.json.decode(line[6:]) for line in told.client.data.split(b"\n") if line.startswith(b"data: ")]
        return "".join(event.get("delta", {}).get("text", "") for event in events)
    if stream:
        return told.client.content
    body = msgspec.json.decode(told.client.data)
    if api is Api.MESSAGES:
        return str(body["content"][0]["text"])
    choice = body["choices"][0]
    return str(choice["text"] if api is Api.COMPLETIONS else choice["message"]["content"])


@pytest.mark.parametrize("api", [Api.CHAT, Api.MESSAGES, Api.COMPLETIONS])
@pytest.mark.parametrize("was_stream", [True, False])
@pytest.mark.parametrize("is_stream", [True, False])
def test_when_nobody_answers_the_answer_of_before_is_given_in_the_way_that_is_asked_for(
    api: Api, was_stream: bool, is_stream: bool
) -> None:
    async def story() -> None:
        made, upstream = stage()
        fresh = await made.ask(api=api, stream=was_stream, **GREEDY)
        assert "x-servery-cache" not in dict(fresh.client.headers)
        upstream.is_dead = True
        told = await made.ask(api=api, stream=is_stream, **GREEDY)
        assert (told.status, said(told, api, stream=is_stream), told.client.is_ended) == (200, TEXT, True)
        headers = dict(told.client.headers)
        assert (headers["x-servery-cache"], "x-servery-deployment" in headers) == ("stale", False)
        assert 0 <= int(headers["age"]) <= 10  # of the retries
        if was_stream == is_stream:
            assert told.client.data == fresh.client.data
        row = told.row
        assert (row.outcome, row.status, row.cache, row.deployment) == ("completed", 200, "stale", None)
        assert (row.attempts, row.generated_tokens, row.is_slo_met) == (3, 0, False)

    run(story)


def test_an_answer_of_before_is_of_the_model_that_was_asked_also_when_another_was_tried() -> None:
    async def story() -> None:
        upstream = Mortal(TEXT)
        first = ModelConfig(name="m", tiers=(("a",),), earlier=DAY, fallbacks=Fallbacks(error=("n",)))
        made = Stage({"a": upstream, "b": Scripted((GONE,))}, models=[first, ModelConfig(name="n", tiers=(("b",),))])
        await made.ask(**GREEDY)
        upstream.is_dead = True
        headers = dict((await made.ask(**GREEDY)).client.headers)
        assert (headers["x-servery-model"], headers["x-servery-cache"]) == ("m", "stale")
        assert "x-servery-deployment" not in headers

    run(story)


def test_a_live_answer_is_always_preferred() -> None:
    async def story() -> None:
        made, upstream = stage()
        await made.ask(**GREEDY)
        upstream.text = "Another one."
        assert (await made.ask(**GREEDY)).client.content == "Another one."

    run(story)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.1},
        {"temperature": 0, "max_tokens": 99},
        {"temperature": 0, "max_tokens": 100, "messages": [{"role": "user", "content": "ho"}]},
    ],
)
def test_another_request_has_another_answer_or_none(fields: dict[str, Any]) -> None:
    async def story() -> None:
        made, upstream = stage()
        await made.ask(**GREEDY)
        upstream.is_dead = True
        told = await made.ask(**fields)
        assert (told.status, told.client.data) == (503, b"")

    run(story)


def test_answers_that_chance_made_are_kept_only_where_the_configuration_says_so() -> None:
    async def story() -> None:
        for is_any in (False, True):
            made, upstream = stage(EarlierPolicy(max_age_s=60.0, is_any=is_any))
            await made.ask(temperature=1)
            upstream.is_dead = True
            assert (await made.ask(temperature=1)).status == (200 if is_any else 503)

    run(story)


def test_nothing_is_kept_without_it_nor_of_an_answer_that_was_cut_nor_of_a_stand_in() -> None:
    async def story() -> None:
        made, upstream = stage(None)
        await made.ask(**GREEDY)
        upstream.is_dead = True
        assert (await made.ask(**GREEDY)).status == 503

        made, upstream = stage()
        upstream.dies_after, upstream.failure = 3, invalid("no", "n")
        assert (await made.ask(**GREEDY)).status == 400
        upstream.is_dead = True
        assert (await made.ask(**GREEDY)).status == 503

        stand_in = Mortal("Something else.")
        models = [
            ModelConfig(name="m", tiers=(("a",),), place=Place.FIRST, fallbacks=Fallbacks(error=("n",)), earlier=DAY),
            ModelConfig(name="n", tiers=(("b",),), place=Place.FIRST, earlier=DAY),
        ]
        made = Stage({"a": Scripted((GONE,)), "b": stand_in}, models=models)
        assert (await made.ask(**GREEDY)).client.content == "Something else."
        stand_in.is_dead = True
        assert (await made.ask(**GREEDY)).status == 503

    run(story)


def test_what_a_client_did_wrong_is_told_and_no_answer_of_before() -> None:
    async def story() -> None:
        made, upstream = stage()
        await made.ask(**GREEDY)
        upstream.failure, upstream.dies_after = invalid("no", "n"), 0
        assert (await made.ask(**GREEDY)).status == 400

    run(story)


def test_a_reload_that_leaves_it_as_it_is_keeps_what_is_kept() -> None:
    async def story() -> None:
        made, upstream = stage()
        await made.ask(**GREEDY)
        made.gateway.swap(made.fleet(made.gateway.fleet))
        upstream.is_dead = True
        assert (await made.ask(**GREEDY)).status == 200

    run(story)


def test_an_answer_larger_than_its_part_of_the_memory_is_not_kept() -> None:
    async def story() -> None:
        for memory_bytes, status in ((1 << 20, 200), (1 << 12, 503)):
            made, upstream = stage(EarlierPolicy(max_age_s=60.0, memory_bytes=memory_bytes))
            assert (await made.ask(**GREEDY)).client.content == TEXT
            upstream.is_dead = True
            assert (await made.ask(**GREEDY)).status == status

    run(story)
