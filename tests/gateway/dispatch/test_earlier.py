import msgspec
from hypothesis import given
from hypothesis import strategies as st

from servery.config.types import EarlierPolicy
from servery.gateway.dispatch.earlier import Earlier, EarlierAnswers
from servery.upstream.ask import Api, Ask, read_head

POLICY = EarlierPolicy(max_age_s=60.0, memory_bytes=800)


def ask(tenant: bytes = b"one", api: Api = Api.CHAT, **fields: object) -> Ask:
    body = msgspec.json.encode({"model": "m", "temperature": 0, **fields})
    return Ask(
        api=api, body=body, head=read_head(body), model="m", base="m", answer_id="x", created=1, owner=tenant,
    )  # fmt: skip


def answer(data: bytes = b"yes", at_s: float = 0.0, *, is_stream: bool = False) -> Earlier:
    return Earlier(data=data, is_stream=is_stream, includes_usage=False, usage=None, at_s=at_s)


def test_only_exactly_the_same_of_the_same_tenant_is_found() -> None:
    answers = EarlierAnswers(POLICY)
    kept = answer()
    answers.keep(ask(messages=["hi"]), kept)
    assert answers.find(ask(messages=["hi"], stream=True, stream_options={}), 1.0) is kept
    others = [ask(b"two", messages=["hi"]), ask(messages=["ho"]), ask(messages=["hi"], n=2), ask(api=Api.MESSAGES)]
    assert [answers.find(other, 1.0) for other in others] == [None] * 4


def test_fields_cannot_be_shifted_into_one_another() -> None:
    answers = EarlierAnswers(POLICY)
    answers.keep(ask(a="1", b="2"), answer())
    assert answers.find(ask(a='1"b"2'), 1.0) is None


def test_it_is_found_in_the_way_that_is_wanted_if_there_is_one() -> None:
    answers = EarlierAnswers(POLICY)
    whole, stream = answer(b"whole"), answer(b"stream", is_stream=True)
    answers.keep(ask(), whole)
    answers.keep(ask(stream=True), stream)
    assert (answers.find(ask(), 1.0), answers.find(ask(stream=True), 1.0)) == (whole, stream)


def test_what_is_too_old_is_no_answer_and_leaves_with_the_next() -> None:
    answers = EarlierAnswers(POLICY)
    answers.keep(ask(a=1), answer())
    assert answers.find(ask(a=1), 60.0) is not None
    assert answers.find(ask(a=1), 60.1) is None
    answers.keep(ask(a=2), answer(b"ok", 61.0))
    assert answers.bytes == 2


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 300), st.integers(0, 40)), max_size=60))
def test_it_never_takes_more_than_it_may(steps: list[tuple[int, int, int]]) -> None:
    answers, now, known = EarlierAnswers(POLICY), 0.0, dict[int, Earlier]()
    for name, size, wait_s in steps:
        now += wait_s
        kept = answer(b"x" * size, now)
        answers.keep(ask(a=name), kept)
        if size <= 100:
            known[name] = kept
        found = {each: answers.find(ask(a=each), now) for each in range(6)}
        assert sum(len(each.data) for each in found.values() if each is not None) <= answers.bytes <= 800
        for each, earlier in found.items():  # it is the last one, or gone
            assert earlier is None or earlier is known[each]
