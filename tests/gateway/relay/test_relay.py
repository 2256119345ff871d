import asyncio
import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from servery.config.types import Continues, Retry, Timeouts
from servery.gateway.dispatch.deployment import Deployment
from servery.gateway.dispatch.patience import SLOW_READER_S
from servery.gateway.dispatch.place import First, Ranked
from servery.upstream.ask import Api, Ask
from servery.upstream.failure import Kind, UpstreamFailure
from servery.upstream.upstream import Chunk
from servery.wire.completion_answer import CompletionLogprobs, CompletionStream
from servery.wire.errors import rate_limited, unavailable
from servery.wire.usage import Usage
from tests.gateway.scripted import Reader, Scripted, Stage, Writer, piece
from tests.gateway.virtual_time import now, run

CUT = UpstreamFailure(Kind.CUT, "cut")
TEXT = "It was a dark and stormy night; the rain fell in torrents."
REPLAYS = {"continues": Continues.REPLAY}
PREFILLS = {"continues": Continues.PREFILL}
GREEDY = {"temperature": 0}


def test_chunks_reach_the_client_as_they_come_and_the_end_is_told() -> None:
    async def story() -> None:
        told = await Stage({"a": Scripted((piece("a"), Chunk(tokens=1), piece("b")))}).ask()
        assert (told.client.writes, told.client.is_ended) == ([b"data: a\n\n", b"data: b\n\n"], True)

    run(story)


def test_silence_is_broken_before_and_within_an_answer_and_not_in_one_that_is_not_streamed() -> None:
    async def story() -> None:
        script = (40.0, piece("a"), 20.0, piece("b"))
        model = {"timeouts": Timeouts(first_token_s=100.0, stall_s=100.0)}
        told = await Stage({"a": Scripted(script)}, model=model).ask()
        assert (told.status, told.client.comments) == (200, 3)
        assert (await Stage({"a": Scripted(script)}, model=model).ask(stream=False)).client.comments == 0

    run(story)


def test_an_answer_that_stalls_is_cut_and_chunks_that_say_nothing_are_no_progress() -> None:
    async def story() -> None:
        upstream = Scripted((piece("a"), 6.0, Chunk(), 6.0, piece("b")))
        told = await Stage({"a": upstream}, model={"timeouts": Timeouts(stall_s=10.0)}).ask()
        assert (told.status, told.row.outcome, told.row.error) == (504, "failed", "stall_timeout")
        assert (told.client.data, told.client.is_ended, upstream.closed) == (b"data: a\n\n", False, 1)
        assert told.took_s == 10.0

    run(story)


def test_a_client_that_reads_slowly_holds_the_upstream_back_and_is_not_its_stall() -> None:
    async def story() -> None:
        upstream = Scripted((piece("a"), piece("b"), piece("c")))
        told = await Stage({"a": upstream}, model={"timeouts": Timeouts(stall_s=10.0)}).ask(pace_s=50.0)
        assert (told.status, told.took_s, len(told.client.writes)) == (200, 150.0, 3)

    run(story)


def test_a_client_that_reads_nothing_is_given_up() -> None:
    async def story() -> None:
        upstream = Scripted((piece("a"), piece("b")))
        stage = Stage({"a": upstream})
        told = await stage.ask(pace_s=10 * SLOW_READER_S)
        assert (told.status, told.row.error, told.took_s) == (408, "slow_reader", SLOW_READER_S)
        assert upstream.closed == 1
        assert stage.gateway.fleet.deployments["a"].breaker.failure_rate(1e6) == (0.0, 0)

    run(story)


BROKEN = UpstreamFailure(Kind.STATUS, "broken", status=500)
LATER = UpstreamFailure(Kind.THROTTLED, "later", status=429, retry_after_s=3.0)
NEVER = (1e4, piece("a"))
# What is under way when the client goes, the script of the only deployment, and how many attempts there were.
PHASES: dict[str, tuple[Any, int]] = {
    "waiting for its turn": (NEVER, 0),
    "waiting for a place": (NEVER, 0),
    "waiting before a retry": ((BROKEN,), 1),
    "waiting as long as it was told to": ((LATER,), 1),
    "before the first chunk": (NEVER, 1),
    "at work without words": ((Chunk(tokens=1), *NEVER), 1),
    "in the middle": ((piece("a"), *NEVER), 1),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("phase", list(PHASES))
def test_a_client_that_goes_away_stops_its_upstream_in_every_phase(phase: str, stream: bool) -> None:
    async def story() -> None:
        script, attempts = PHASES[phase]
        upstream = Scripted(script)
        model = {"retry": Retry(attempts=5, base_s=100.0, max_s=100.0), "timeouts": Timeouts(first_token_s=1e3)}
        stage = Stage({"a": upstream}, model=model, deployments={"a": {"max_concurrency": 1}})
        there = stage.gateway.fleet.deployments["a"]
        if phase == "waiting for its turn":
            served = dataclasses.replace(stage.gateway.fleet.models["m"], placement=Hesitant())
            stage.gateway.swap(dataclasses.replace(stage.gateway.fleet, models={"m": served}))
        hog = await there.enter(0) if phase == "waiting for a place" else None
        task = asyncio.create_task(stage.gateway.handle(stage.exchange(Reader(), stream=stream)))
        await asyncio.sleep(0.1)
        assert (len(upstream.calls), task.done()) == (attempts, False)

        stage.cut_by = "client"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        row = stage.rows.rows[-1]
        assert (row.outcome, row.status, row.error, row.attempts) == ("client_gone", 499, "client_gone", attempts)
        assert (upstream.closed, there.slots.in_flight, there.slots.waiting) == (attempts, int(hog is not None), 0)
        assert there.breaker.failure_rate(now())[1] == (1 if phase == "waiting before a retry" else 0)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert left == []

    run(story)


class Hesitant(First):
    """Has everybody wait."""

    why_alone = None

    def rank(self, tiers: Sequence[Sequence[Deployment]], ask: Ask) -> Ranked:
        return Ranked([], wait_s=5.0)


def test_a_client_that_goes_away_while_another_deployment_takes_its_answer_up_stops_that_one() -> None:
    async def story() -> None:
        stage = Stage(
            {"a": Writer(TEXT, dies_after=3, failure=CUT), "b": Scripted(NEVER)},
            deployments={"a": REPLAYS, "b": REPLAYS},
        )
        task = asyncio.create_task(stage.gateway.handle(stage.exchange(Reader(), **GREEDY)))
        await asyncio.sleep(1.0)
        stage.cut_by = "client"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert [each.closed for each in stage.upstreams.values()] == [1, 1]
        assert [each.in_flight for each in stage.gateway.fleet.deployments.values()] == [0, 0]
        assert (stage.rows.rows[-1].outcome, stage.rows.rows[-1].attempts) == ("client_gone", 2)

    run(story)


@pytest.mark.parametrize("continues", [REPLAYS, PREFILLS])
@pytest.mark.parametrize("api", [Api.CHAT, Api.MESSAGES, Api.COMPLETIONS])
def test_an_answer_that_was_passed_on_goes_on_elsewhere_too(api: Api, continues: dict[str, Any]) -> None:
    async def story() -> None:
        fields: dict[str, Any] = {"api": api, "temperature": 0, "max_tokens": 100}
        whole = await Stage({"a": Writer(TEXT)}).ask(**fields)
        events = whole.client.data.split(b"\n\n")
        head = Chunk(data=events[0] + b"\n\n", usage=Usage.of(5, 0, 0))
        words = [Chunk(data=each + b"\n\n", tokens=1) for each in events[1:9]]
        if api is Api.COMPLETIONS:  # it begins with its first word
            head = Chunk(data=head.data, tokens=1, usage=Usage.of(5, 1, 0))
        began = [head, *([Chunk(data=words[0].data), *words[1:]] if api is Api.MESSAGES else words)]

        stage = Stage({"a": Scripted((*began, CUT)), "b": Writer(TEXT)}, deployments={"b": continues})
        cut = await stage.ask(**fields)

        assert (cut.status, cut.row.attempts, cut.row.deployment, cut.row.outcome) == (200, 2, "b", "completed")
        assert cut.client.data.startswith(b"".join(chunk.data for chunk in began))
        assert _named_alike(cut.client.data, api) == _named_alike(whole.client.data, api)

    run(story)


def responses(**fields: Any) -> dict[str, Any]:
    return {"api": Api.RESPONSES, "temperature": 0, "max_output_tokens": 100, **fields}


# Created, in progress, the item and its part are there; then letters, then four events that close the text, part, item.
@pytest.mark.parametrize("events", [2, 5, 20, 4 + len(TEXT), 7 + len(TEXT)])
def test_a_response_that_was_passed_on_goes_on_elsewhere_from_the_same_event(events: int) -> None:
    async def story() -> None:
        whole = await Stage({"a": Writer(TEXT)}).ask(**responses())
        told = whole.client.data.split(b"\n\n")
        began = [Chunk(data=each + b"\n\n", tokens=int(b".delta" in each)) for each in told[:events]]
        stage = Stage({"a": Scripted((*began, CUT)), "b": Writer(TEXT)}, deployments={"b": REPLAYS})
        cut = await stage.ask(**responses())

        assert (cut.status, cut.row.attempts, cut.row.outcome) == (200, 2, "completed")
        assert cut.client.data.startswith(b"".join(chunk.data for chunk in began))
        assert _named_alike(cut.client.data, Api.RESPONSES) == _named_alike(whole.client.data, Api.RESPONSES)
        ids = set(re.findall(rb'"(?:item_id|id)":"(msg_[0-9a-f]+)"', cut.client.data))
        assert len(ids) == 1  # the item that was begun is the one that ends

    run(story)


@pytest.mark.parametrize("events", [1, 3, 5 + len(TEXT), 6 + len(TEXT)])
def test_a_response_that_broke_off_while_an_item_opens_or_closes_ends_with_the_error(events: int) -> None:
    async def story() -> None:
        whole = await Stage({"a": Writer(TEXT)}).ask(**responses())
        began = [Chunk(data=each + b"\n\n", tokens=1) for each in whole.client.data.split(b"\n\n")[:events]]
        stage = Stage({"a": Scripted((*began, CUT)), "b": Writer(TEXT)}, deployments={"b": REPLAYS})
        cut = await stage.ask(**responses())
        assert (cut.status, cut.row.error, cut.client.is_ended) == (502, "cut", False)

    run(story)


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ((b"response.output_text.delta", b"response.web_search_call.searching"), {}),
        ((b'"output_text"', b'"refusal"'), {}),
        ((b"", b""), {"previous_response_id": "resp_elsewhere"}),
        ((b"", b""), {"tools": [{"type": "web_search"}]}),
    ],
)
def test_a_response_of_which_nobody_here_knows_how_it_goes_on_ends_with_the_error(
    change: tuple[bytes, bytes], fields: dict[str, Any]
) -> None:
    async def story() -> None:
        whole = await Stage({"a": Writer(TEXT)}).ask(**responses())
        began = [Chunk(data=each.replace(*change) + b"\n\n", tokens=1) for each in whole.client.data.split(b"\n\n")[:9]]
        second = Writer(TEXT)
        stage = Stage({"a": Scripted((*began, CUT)), "b": second}, deployments={"b": REPLAYS})
        cut = await stage.ask(**responses(**fields))
        assert (cut.status, cut.row.error, cut.client.is_ended, second.calls) == (502, "cut", False, [])

    run(story)


def columns(text: str, at: int) -> CompletionLogprobs:
    tokens = list(text)
    tops: list[dict[str, float] | None] = [{token: -0.5, "?": -1.5} for token in tokens]
    return CompletionLogprobs(tokens, [-0.5] * len(tokens), tops, list(range(at, at + len(tokens))))


def completion(text: str, letters: int) -> list[Chunk]:
    """A completion with log probabilities, so many tokens to an event."""
    form = CompletionStream("cmpl-1", 5, "m", include_usage=False)
    starts = range(0, len(text), letters)
    said = [form.text(0, text[at : at + letters], columns(text[at : at + letters], at)) for at in starts]
    return [
        *(Chunk(data=each, tokens=letters) for each in said),
        Chunk(data=form.finish(0, "stop"), finish_reason="stop"),
    ]


def told_columns(data: bytes) -> CompletionLogprobs:
    events = [msgspec.json.decode(line[6:]) for line in data.split(b"\n") if line.startswith(b"data: ")]
    found = [event["choices"][0]["logprobs"] for event in events if event["choices"][0]["logprobs"]]
    joined = {name: [each for part in found for each in part[name]] for name in CompletionLogprobs.__struct_fields__}
    return msgspec.convert(joined, CompletionLogprobs)


@pytest.mark.parametrize("letters", [1, 3, 100])
def test_a_completion_with_log_probabilities_goes_on_behind_the_token_that_the_client_has(letters: int) -> None:
    async def story() -> None:
        upstreams = {"a": Scripted((*completion(TEXT, 2)[:5], CUT)), "b": Scripted(completion(TEXT, letters))}
        stage = Stage(upstreams, deployments={"b": REPLAYS})
        told = await stage.ask(api=Api.COMPLETIONS, temperature=0, logprobs=1)
        assert (told.status, told.client.content, told.row.attempts) == (200, TEXT, 2)
        assert told_columns(told.client.data) == columns(TEXT, 0)

    run(story)


def test_a_completion_of_the_same_letters_by_other_tokens_is_another_one() -> None:
    async def story() -> None:
        other = msgspec.json.encode({"choices": [{"index": 0, "text": TEXT, "logprobs": {
            "tokens": [TEXT], "token_logprobs": [-9.0], "top_logprobs": None, "text_offset": [0]}}]})  # fmt: skip
        upstreams = {
            "a": Scripted((*completion(TEXT, 2)[:5], CUT)),
            "b": Scripted((Chunk(data=b"data: " + other + b"\n\n"),)),
        }
        told = await Stage(upstreams, deployments={"b": REPLAYS}).ask(api=Api.COMPLETIONS, temperature=0, logprobs=1)
        assert (told.status, told.row.error, told.client.content) == (502, "cut", TEXT[:10])

    run(story)


@pytest.mark.parametrize("letters", [1, 20, len(TEXT) - 1])
@pytest.mark.parametrize("api", [Api.CHAT, Api.MESSAGES, Api.RESPONSES, Api.COMPLETIONS])
@pytest.mark.parametrize("failure", [CUT, unavailable("the engine died", 1.0)])
def test_an_answer_that_is_cut_goes_on_elsewhere_and_the_client_reads_the_same_bytes(
    letters: int, api: Api, failure: Exception
) -> None:
    async def story() -> None:
        limit = "max_output_tokens" if api is Api.RESPONSES else "max_tokens"
        fields: dict[str, Any] = {"api": api, "temperature": 0, limit: 100}
        replays = {"a": REPLAYS, "b": REPLAYS}
        dying = Writer(TEXT, dies_after=letters, failure=failure)
        cut = await Stage({"a": dying, "b": Writer(TEXT)}, deployments=replays).ask(**fields)
        whole = await Stage({"a": Writer(TEXT)}, deployments=replays).ask(**fields)

        assert (cut.status, cut.row.attempts, cut.row.deployment, cut.row.outcome) == (200, 2, "b", "completed")
        assert _named_alike(cut.client.data, api) == _named_alike(whole.client.data, api)
        assert cut.row.generated_tokens == whole.row.generated_tokens

    run(story)


def _named_alike(data: bytes, api: Api) -> bytes:
    """Without what is drawn anew for each answer: the ids of its items."""
    return re.sub(rb'"(item_id|id)":"(msg|rs)_[0-9a-f]+"', b'"id":""', data) if api is Api.RESPONSES else data


def test_an_answer_that_was_drawn_by_chance_is_not_written_again() -> None:
    async def story() -> None:
        second = Writer(TEXT)
        stage = Stage(
            {"a": Writer(TEXT, dies_after=5, failure=CUT), "b": second}, deployments={"a": REPLAYS, "b": REPLAYS}
        )
        told = await stage.ask(temperature=1)
        assert (told.status, told.row.error, told.row.outcome, len(second.calls)) == (502, "cut", "failed", 0)
        assert (told.client.content, told.client.is_ended) == (TEXT[:5], False)

    run(story)


def test_a_second_answer_that_is_another_one_is_not_passed_off_as_the_rest_of_the_first() -> None:
    async def story() -> None:
        other = Writer("It was the best of times, it was the worst of times.")
        stage = Stage(
            {"a": Writer(TEXT, dies_after=20, failure=CUT), "b": other}, deployments={"a": REPLAYS, "b": REPLAYS}
        )
        told = await stage.ask(**GREEDY)
        assert (told.status, told.row.error, told.client.content, told.client.is_ended) == (
            502,
            "cut",
            TEXT[:20],
            False,
        )
        assert (other.closed, stage.gateway.fleet.deployments["b"].breaker.failure_rate(1e6)) == (1, (0.0, 0))

    run(story)


def test_a_deployment_that_can_go_on_is_given_what_the_client_has() -> None:
    async def story() -> None:
        second = Writer(TEXT)
        stage = Stage(
            {"a": Writer(TEXT, dies_after=20, failure=CUT), "b": second}, deployments={"a": {}, "b": PREFILLS}
        )
        told = await stage.ask(temperature=1, stream_options={"include_usage": True})
        assert (told.status, told.client.content, told.client.is_ended) == (200, TEXT, True)
        assert [(call.continued, call.spent_tokens) for call in second.calls] == [(TEXT[:20], 20)]
        assert (told.row.prompt_tokens, told.row.generated_tokens) == (5, len(TEXT))
        assert b'"prompt_tokens":5,"completion_tokens":%d,' % len(TEXT) in told.client.data

    run(story)


def test_the_third_goes_on_where_the_second_was_cut() -> None:
    async def story() -> None:
        upstreams = {
            "a": Writer(TEXT, dies_after=10, failure=CUT),
            "b": Writer(TEXT, dies_after=30, failure=CUT),
            "c": Writer(TEXT),
        }
        told = await Stage(upstreams, deployments=dict.fromkeys("abc", REPLAYS)).ask(**GREEDY)
        assert (told.status, told.client.content, told.row.attempts) == (200, TEXT, 3)

    run(story)


def test_one_that_is_cut_before_it_has_caught_up_is_replaced_too() -> None:
    async def story() -> None:
        upstreams = {
            "a": Writer(TEXT, dies_after=30, failure=CUT),
            "b": Writer(TEXT, dies_after=10, failure=CUT),
            "c": Writer(TEXT),
        }
        told = await Stage(upstreams, deployments=dict.fromkeys("abc", REPLAYS)).ask(**GREEDY)
        assert (told.status, told.client.content, told.row.attempts) == (200, TEXT, 3)

    run(story)


def test_resuming_is_bounded_by_the_attempts_and_by_the_retry_budget() -> None:
    async def story() -> None:
        upstreams = {name: Writer(TEXT, dies_after=at, failure=CUT) for at, name in enumerate("abcd", start=1)}
        told = await Stage(
            upstreams, deployments=dict.fromkeys("abcd", REPLAYS), model={"retry": Retry(attempts=3)}
        ).ask(**GREEDY)
        assert (told.status, told.row.attempts, told.client.content) == (502, 3, TEXT[:3])

    run(story)


def test_what_is_relayed_as_it_came_cannot_be_gone_on_with_and_the_client_is_told() -> None:
    async def story() -> None:
        upstreams = {"a": Scripted((piece("a"), CUT)), "b": Writer(TEXT)}
        told = await Stage(upstreams, deployments={"a": REPLAYS, "b": REPLAYS}).ask(**GREEDY)
        assert (told.status, told.client.data, told.client.is_ended) == (502, b"data: a\n\n", False)

    run(story)


class Shedding(First):
    """Refuses whoever comes behind the first."""

    why_alone = None

    def __init__(self) -> None:
        self.asked = 0

    def rank(self, tiers: Sequence[Sequence[Deployment]], ask: Ask) -> Ranked:
        self.asked += 1
        order = super().rank(tiers, ask).order
        return Ranked(order, refusal=None if self.asked == 1 else rate_limited("busy", 1.0))


@pytest.mark.parametrize(
    ("second", "status", "error"),
    [
        (Writer(TEXT), 200, None),
        (Scripted((UpstreamFailure(Kind.THROTTLED, "later", status=429, retry_after_s=3.0),)), 502, "cut"),
        (Scripted((1e4, piece("a"))), 502, "cut"),
    ],
    ids=["goes on", "is throttled", "is silent"],
)
def test_an_answer_under_way_is_never_shed_and_fails_by_what_cut_it(
    second: Any, status: int, error: str | None
) -> None:
    async def story() -> None:
        stage = Stage(
            {"a": Writer(TEXT, dies_after=20, failure=CUT), "b": second}, deployments={"a": REPLAYS, "b": REPLAYS}
        )
        served = dataclasses.replace(stage.gateway.fleet.models["m"], placement=Shedding())
        stage.gateway.swap(dataclasses.replace(stage.gateway.fleet, models={"m": served}))
        told = await stage.ask(**GREEDY)
        assert (told.status, told.row.error, told.row.attempts) == (status, error, 2)
        assert told.client.content == (TEXT if status == 200 else TEXT[:20])
        assert (await stage.ask(**GREEDY)).status == 429  # whose answer has not begun

    run(story)
