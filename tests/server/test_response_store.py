import pytest

from servery.server.response_store import ResponseStore
from servery.wire.errors import ApiError
from servery.wire.responses_items import Item, MessageItem

ASKED: list[Item] = [MessageItem(role="user", content="hi")]
SAID: list[Item] = [MessageItem(role="assistant", content="hello")]


def kept(store: ResponseStore) -> list[str]:
    return [name for name in "abcd" if has(store, name)]


def has(store: ResponseStore, name: str) -> bool:
    try:
        return bool(store.get(b"me", name))
    except ApiError as error:
        return error.code != "response_not_found"


def put(store: ResponseStore, *names: str, owner: bytes = b"me") -> None:
    for name in names:
        store.put(owner, {"id": name}, [], ASKED, SAID)


def test_a_response_comes_with_its_conversation() -> None:
    store = ResponseStore(9, 10_000)
    store.put(b"me", {"id": "a"}, SAID, ASKED, SAID)

    stored = store.get(b"me", "a")
    assert (stored.body, stored.input_items, stored.conversation) == (b'{"id":"a"}', ASKED, [*SAID, *ASKED, *SAID])


def test_the_least_recently_used_make_room_for_the_newest() -> None:
    store = ResponseStore(2, 10_000)
    put(store, "a", "b")
    store.get(b"me", "a")
    put(store, "c")

    assert kept(store) == ["a", "c"]


def test_bytes_are_bounded_as_well() -> None:
    one = ResponseStore(9, 10_000)
    put(one, "a")
    store = ResponseStore(9, 2 * one.size_bytes)
    put(store, "a", "b", "c")

    assert kept(store) == ["b", "c"]
    assert store.size_bytes == 2 * one.size_bytes
    store.delete(b"me", "b")
    assert (kept(store), store.size_bytes) == (["c"], one.size_bytes)


def test_what_is_larger_than_the_whole_store_is_not_kept() -> None:
    store = ResponseStore(9, 2000)
    put(store, "a")
    before = store.size_bytes
    store.put(b"me", {"id": "b", "text": "x" * 2000}, [], [], [])

    assert (kept(store), store.size_bytes) == (["a"], before), "nor is anybody's pushed out by it"


def test_another_s_response_is_as_if_it_were_not_there() -> None:
    store = ResponseStore(9, 10_000)
    put(store, "a", owner=b"you")

    assert kept(store) == []
    with pytest.raises(ApiError):
        store.delete(b"me", "a")
    assert store.get(b"you", "a").input_items == ASKED
