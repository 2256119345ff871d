"""Prompts have the length asked for, as the server counts, and are the same for the same seed."""

import asyncio
import random
from dataclasses import dataclass
from os.path import commonprefix

import pytest

from servery.bench.address import Address
from servery.bench.client import Client
from servery.bench.errors import WrongStatus
from servery.bench.prompts import CharacterCount, Messages, PromptMaker, ServerCount, TokenCounter, token_counter
from servery.bench.span import Span
from tests.scripted_server import json_answer, scripted


@dataclass
class WordCount:
    """A tokenizer of its own: a word of n letters is 1 + n // 4 tokens, a template takes 5."""

    asked: int = 0
    is_exact: bool = True

    async def count(self, messages: Messages) -> int:
        self.asked += 1
        return 5 + sum(1 + len(word) // 4 for message in messages for word in message["content"].split())


def prompts(counter: TokenCounter, span: Span, number: int, shared_tokens: int = 0, seed: int = 0) -> list[Messages]:
    async def make() -> list[Messages]:
        maker, source = PromptMaker(counter, shared_tokens, seed), random.Random(seed)
        return [await maker.make(span.draw(source)) for _ in range(number)]

    return asyncio.run(make())


def lengths(counter: TokenCounter, made: list[Messages]) -> list[int]:
    async def count() -> list[int]:
        return [await counter.count(messages) for messages in made]

    return asyncio.run(count())


@pytest.mark.parametrize("target", [10, 200, 2000])
@pytest.mark.parametrize("counter", [WordCount(), CharacterCount()])
def test_a_prompt_is_as_long_as_asked_and_never_longer(counter: TokenCounter, target: int) -> None:
    made = prompts(counter, Span(target, target), 20)
    assert all(target - 3 <= length <= target for length in lengths(counter, made))
    assert len({str(messages) for messages in made}) == 20


def test_few_questions_are_asked_of_the_server() -> None:
    counter = WordCount()
    prompts(counter, Span(500, 500), 50)
    assert counter.asked <= 50 * 8


def test_lengths_are_drawn_from_the_whole_span() -> None:
    counter = WordCount()
    found = lengths(counter, prompts(counter, Span(20, 60), 200))
    assert (min(found) <= 24, max(found) >= 56, max(found) <= 60) == (True, True, True)


def test_the_shared_prefix_comes_on_top_and_is_really_shared() -> None:
    counter = WordCount()
    made = prompts(counter, Span(30, 30), 10, shared_tokens=100)
    texts = [messages[0]["content"] for messages in made]
    shared = commonprefix(texts)  # noqa: RUF071 - of texts, character by character
    assert asyncio.run(counter.count([{"role": "user", "content": shared}])) >= 97
    assert all(127 <= length <= 130 for length in lengths(counter, made))
    assert len(set(texts)) == 10


def test_an_opening_is_the_first_word_within_the_length() -> None:
    async def make(opening: str) -> list[str]:
        maker = PromptMaker(WordCount(), 40, 3, opening)
        return [(await maker.make(30))[0]["content"] for _ in range(5)]

    north, south = asyncio.run(make("north")), asyncio.run(make("south"))
    assert {prompt.split()[0] for prompt in north} == {"north"}
    assert [prompt.split()[1:] for prompt in north] == [prompt.split()[1:] for prompt in south]
    assert all(67 <= asyncio.run(WordCount().count([{"role": "user", "content": one}])) <= 70 for one in north)


def test_prompts_of_named_blocks_have_the_shared_tokens_on_top() -> None:
    async def make(shared: int) -> list[str]:
        maker = PromptMaker(WordCount(), shared, 3)
        return [(await maker.from_blocks(names, 32, 64))[0]["content"] for names in ((1, 2), (3, 4))]

    counts = [
        [asyncio.run(WordCount().count([{"role": "user", "content": one}])) for one in asyncio.run(make(shared))]
        for shared in (0, 50)
    ]
    assert all(35 <= more - few <= 55 for few, more in zip(*counts, strict=True))


def test_the_seed_decides_the_prompts() -> None:
    one, same, other = (prompts(WordCount(), Span(20, 60), 5, seed=seed) for seed in (1, 1, 2))
    assert one == same != other


def test_a_length_below_the_template_gives_the_shortest_prompt() -> None:
    [messages] = prompts(WordCount(), Span(1, 1), 1)
    assert len(messages[0]["content"].split()) == 1


def test_the_servers_count_is_used_where_there_is_one() -> None:
    async def run() -> None:
        async with scripted({"/tokenize": [json_answer({"count": 7, "tokens": [1]})]}) as server:
            counter = await token_counter(Client(Address.parse(server.url)), "m")
            assert isinstance(counter, ServerCount)
            assert await counter.count([{"role": "user", "content": "hi"}]) == 7
            assert server.bodies("/tokenize")[-1] == {
                "model": "m",
                "messages": [{"role": "user", "content": "hi"}],
                "add_generation_prompt": True,
            }

    asyncio.run(run())


@pytest.mark.parametrize("answer", [json_answer({}, 404), json_answer({}, 405), json_answer({"tokens": 3})])
def test_elsewhere_lengths_are_guessed(answer: list[bytes]) -> None:
    async def run() -> None:
        async with scripted({"/tokenize": [answer]}) as server:
            counter = await token_counter(Client(Address.parse(server.url)), "m")
            assert counter == CharacterCount()

    asyncio.run(run())


def test_a_server_in_trouble_is_not_taken_for_one_without_tokenize() -> None:
    async def run() -> None:
        async with scripted({"/tokenize": [json_answer({}, 503)]}) as server:
            with pytest.raises(WrongStatus):
                await token_counter(Client(Address.parse(server.url)), "m")

    asyncio.run(run())


@pytest.mark.parametrize(("text", "span"), [("200", Span(200, 200)), ("1:1", Span(1, 1)), ("10:500", Span(10, 500))])
def test_a_span_reads_as_it_is_written(text: str, span: Span) -> None:
    assert Span.parse(text) == span
    assert Span.parse(str(span)) == span


@pytest.mark.parametrize("text", ["", "0", "-1", "a", "5:", ":5", "9:2", "1:2:3", "1.5", "²"])
def test_any_other_span_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="tokens") as caught:
        Span.parse(text)
    assert repr(text) in str(caught.value)


def test_parts_of_the_same_name_are_the_same_text_in_every_prompt() -> None:
    counter = WordCount()

    async def make() -> list[str]:
        maker = PromptMaker(counter, 0, seed=3)
        made = [await maker.from_blocks(names, 100, 290) for names in ((1, 2, 3), (1, 2, 9), (4, 2, 3))]
        return [messages[0]["content"] for messages in made]

    one, sibling, stranger = asyncio.run(make())
    shared = commonprefix([one, sibling])  # noqa: RUF071 - of texts, character by character
    assert 170 <= asyncio.run(counter.count([{"role": "user", "content": shared}])) <= 220
    assert len(commonprefix([one, stranger])) < 20  # noqa: RUF071
    assert all(275 <= length <= 305 for length in lengths(counter, [[{"role": "user", "content": one}]]))
