"""Who may ask: keys of all kinds, found by their digests."""

import hashlib

import pytest

from servery.config.types import KeyConfig, Limits, Tier
from servery.server.auth import Admission, KeyRing, digest_of
from servery.upstream.caller import ANYBODY, Caller
from servery.wire.errors import ApiError

NOW_S = 1000.0


def named(name: str, *keys: str, **fields: object) -> KeyConfig:
    return KeyConfig(name=name, digests=tuple(hashlib.sha256(key.encode()).digest() for key in keys), **fields)  # type: ignore[arg-type]


def ring(*plain: str, keys: tuple[KeyConfig, ...] = ()) -> KeyRing:
    return KeyRing(plain, keys, lambda: NOW_S)


def bearer(key: str) -> dict[bytes, bytes]:
    return {b"authorization": f"Bearer {key}".encode()}


def refusal(of: KeyRing, headers: dict[bytes, bytes]) -> tuple[int, str]:
    with pytest.raises(ApiError) as caught:
        of.check(headers)
    return caught.value.status, caught.value.message


def test_without_keys_anybody_is_served() -> None:
    assert ring().check({}) is ANYBODY
    assert ring().check(bearer("anything")) is ANYBODY
    assert ring().caller("") is ANYBODY


def test_a_key_is_known_however_it_is_sent() -> None:
    made = ring("one", "two")
    caller = made.check(bearer("two"))
    assert made.check({b"x-api-key": b"two"}) is made.check({b"authorization": b"bearer  two "}) is caller
    assert (caller.tenant, caller.key) == (digest_of(b"two"), f"key_{hashlib.sha256(b'two').hexdigest()[:12]}")
    assert made.are_in(bearer("one"))
    assert not made.are_in(bearer("three"))
    assert not made.are_in({})


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_of_two_different_keys_neither_counts(scheme: str) -> None:
    """The first was taken, whoever the second one was: a request of one tenant could be answered as another's."""
    made = ring("one", "two")
    for other in ("two", "wrong"):
        headers = {b"authorization": f"{scheme} one".encode(), b"x-api-key": other.encode()}
        status, message = refusal(made, headers)
        assert (status, message.startswith("'Authorization' and 'x-api-key' have different keys")) == (400, True)
        assert ring().check(headers) is ANYBODY
    same = {b"authorization": f"{scheme} one".encode(), b"x-api-key": b" one "}
    assert made.check(same) is made.check(bearer("one"))
    assert made.check({b"authorization": b"Basic YTpi", b"x-api-key": b"one"}) is made.check(bearer("one"))
    assert made.check({**bearer("one"), b"x-api-key": b""}) is made.check(bearer("one"))


def test_unknown_expired_and_revoked_keys_get_the_same_answer() -> None:
    made = ring("plain", keys=(named("old", "old", expires_s=NOW_S), named("new", "new", expires_s=NOW_S + 1)))
    assert made.check(bearer("new")).key == "new"
    refusals = {refusal(made, bearer(key)) for key in ("old", "never", "plain2")}
    made.renew(())
    assert refusals | {refusal(made, bearer("plain"))} if not made.is_empty else refusals
    assert refusals == {(401, "The API key is not accepted by this server.")}
    assert refusal(ring("plain"), {})[1].startswith("No API key was given.")
    assert not made.are_in(bearer("old"))


def test_a_named_key_is_who_the_configuration_says() -> None:
    limits = Limits(concurrency=3)
    key = named("app", "a", "b", owner="team", models=frozenset({"m"}), tiers=frozenset({Tier.API}), limits=limits)
    made = ring(keys=(key,))
    caller = made.check(bearer("a"))
    assert caller is made.check(bearer("b"))
    assert (caller.key, caller.owner, caller.models, caller.tiers, caller.limits) == (
        "app", "team", {"m"}, {Tier.API}, limits,
    )  # fmt: skip


def test_keys_of_one_owner_are_one_tenant_and_names_cannot_pass_for_another() -> None:
    keys = (
        named("a", "a", owner="team"), named("b", "b", owner="team"), named("team", "c"), named("d", "d", owner="d"),
        named("e", "e"),
    )  # fmt: skip
    made = ring("f", keys=keys)
    tenants = [made.check(bearer(key)).tenant for key in "abcdef"]
    assert tenants[0] == tenants[1]
    assert len(set(tenants)) == 5


def test_a_store_without_a_key_lets_nobody_in() -> None:
    made = ring()
    made.take([])
    assert refusal(made, bearer("x"))[0] == 401
    made.take([Admission(digest_of(b"x"), Caller(key="k"))])
    assert made.check(bearer("x")).key == "k"
    made.renew(("plain",))
    assert (made.check(bearer("x")).key, made.caller("k").key) == ("k", "k")
    made.take([])
    assert refusal(made, bearer("x"))[0] == 401
    with pytest.raises(ApiError):
        made.caller("k")


def test_who_has_a_key_is_known_by_its_id_as_long_as_one_of_its_secrets_lives() -> None:
    made = ring()
    caller = Caller(key="k")
    made.take([Admission(b"1", caller, NOW_S), Admission(b"2", caller, NOW_S + 1)])
    assert made.caller("k") is caller
    made.take([Admission(b"1", caller, NOW_S)])
    with pytest.raises(ApiError):
        made.caller("k")
