"""Keys on disk: made, rotated, revoked; their secrets nowhere."""

import asyncio
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from servery.config.types import LedgerConfig, Limits, Tier
from servery.server import key_watch
from servery.server.auth import KeyRing
from servery.server.key_store import KeyStore, KeyStoreError, KeyTerms, NoSuchKey
from servery.server.key_watch import KeyWatch, store_path
from servery.wire.errors import ApiError

TERMS = KeyTerms(
    name="app", owner="team", models=frozenset({"m", "n"}), tiers=frozenset({Tier.EMBEDDED}), expires_s=5000.0,
    limits=Limits(requests_per_minute=6, microusd_per_month=1_500_001, burst_s=2.5),
)  # fmt: skip


class Wall:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def store(tmp_path: Path, wall: Wall) -> KeyStore:
    return KeyStore(tmp_path / "keys.sqlite", wall)


def accepts(store: KeyStore, secret: str, wall: Wall) -> bool:
    ring = KeyRing((), (), wall)
    ring.take([each for key in store.all() for each in key.admissions()])
    return ring.are_in({b"x-api-key": secret.encode()})


def test_a_key_comes_back_as_it_was_made(store: KeyStore, tmp_path: Path) -> None:
    key, secret = store.create(TERMS)
    (again,) = KeyStore(tmp_path / "keys.sqlite").all()
    assert again == key
    assert (key.terms, key.created_s, key.revoked_s, key.state(4999.0), key.state(5000.0)) == (
        TERMS, 1000.0, None, "active", "expired",
    )  # fmt: skip
    assert secret.startswith(key.secrets[0].shown)
    assert len(secret) > 50
    assert store.create(KeyTerms())[0].terms == KeyTerms()


def test_the_file_is_its_owners_alone_and_has_no_secret(store: KeyStore, tmp_path: Path) -> None:
    _, secret = store.create(TERMS)
    store.close()
    path = tmp_path / "keys.sqlite"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    written = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert secret.encode() not in written
    assert secret[20:].encode() not in written


def test_a_rotated_key_has_both_secrets_for_a_while(store: KeyStore, wall: Wall) -> None:
    key, old = store.create(KeyTerms(owner="team"))
    rotated, new = store.rotate(key.id, 60.0)
    assert (rotated.id, [each.expires_s for each in rotated.secrets]) == (key.id, [1060.0, None])
    assert [accepts(store, each, wall) for each in (old, new)] == [True, True]
    wall.now_s = 1060.0
    assert [accepts(store, each, wall) for each in (old, new)] == [False, True]
    rotated, newest = store.rotate(key.id, 0.0)
    assert len(rotated.secrets) == 1
    assert [accepts(store, each, wall) for each in (old, new, newest)] == [False, False, True]


def test_a_second_rotation_gives_the_first_secret_no_more_time(store: KeyStore, wall: Wall) -> None:
    key, _ = store.create(KeyTerms())
    store.rotate(key.id, 60.0)
    rotated, _ = store.rotate(key.id, 600.0)
    assert [each.expires_s for each in rotated.secrets] == [1060.0, 1600.0, None]


def test_a_revoked_key_is_over_at_once_and_stays_listed(store: KeyStore, wall: Wall) -> None:
    key, secret = store.create(KeyTerms())
    revoked = store.revoke(key.id)
    assert (revoked.state(wall()), revoked.secrets, accepts(store, secret, wall)) == ("revoked", (), False)
    assert [each.id for each in store.all()] == [key.id]
    for again in (lambda: store.revoke(key.id), lambda: store.rotate(key.id, 1.0)):
        with pytest.raises(NoSuchKey, match="was revoked already; `servery keys create` makes a new one"):
            again()
    with pytest.raises(NoSuchKey, match="there is no key 'key_none'; `servery keys list` shows"):
        store.get("key_none")


def test_a_key_ends_with_the_earlier_of_its_own_time_and_its_secrets(store: KeyStore) -> None:
    key, _ = store.create(KeyTerms(expires_s=1030.0))
    rotated, _ = store.rotate(key.id, 60.0)
    assert [each.expires_s for each in rotated.admissions()] == [1030.0, 1030.0]


def test_a_file_that_is_no_store_is_refused_with_its_name(tmp_path: Path) -> None:
    broken, newer = tmp_path / "broken", tmp_path / "newer"
    broken.write_text("this is no database, whatever its name says. " * 100)
    with sqlite3.connect(newer) as database:
        database.execute("PRAGMA user_version = 9")
    for path, why in ((broken, "not a database"), (newer, "it is of version 9"), (tmp_path, "")):
        with pytest.raises(KeyStoreError, match=f"the keys in {path} cannot be used: .*{why}"):
            KeyStore(path)


def test_a_server_follows_what_another_process_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(key_watch, "_LOOK_S", 0.005)
    path = tmp_path / "keys.sqlite"

    async def story() -> None:
        ring = KeyRing(())
        watch = KeyWatch(path, ring, must_be=False)
        task = asyncio.create_task(watch.watch())
        assert (ring.is_empty, watch.store) == (True, None)
        other = KeyStore(path)
        key, secret = other.create(KeyTerms(owner="team"))
        await until(lambda: ring.are_in(header(secret)))
        assert ring.caller(key.id).owner == "team"
        _, new = other.rotate(key.id, 0.0)
        await until(lambda: ring.are_in(header(new)))
        assert not ring.are_in(header(secret))
        other.revoke(key.id)
        await until(lambda: not ring.are_in(header(new)))
        with pytest.raises(ApiError):
            ring.check(header(new))
        assert watch.store is not None
        watch.store.close()  # from now on it cannot be read
        await until(lambda: bool(caplog.records))
        assert not ring.is_empty
        task.cancel()

    asyncio.run(story())
    assert caplog.records[0].message.startswith(
        f"the accepted keys stay as they are: the keys in {path} cannot be used"
    )


def test_a_store_that_must_be_is_made_and_asks_everybody_for_a_key(tmp_path: Path) -> None:
    ring = KeyRing(())
    watch = KeyWatch(tmp_path / "new" / "keys.sqlite", ring, must_be=True)
    assert not ring.is_empty
    with pytest.raises(ApiError):
        ring.check({})
    watch.close()


def test_keys_lie_beside_the_ledger_unless_they_are_named() -> None:
    ledger = LedgerConfig(path=Path("/data/ledger.sqlite"))
    assert store_path(None, ledger) == Path("/data/servery-keys.sqlite")
    assert store_path(Path("/keys"), ledger) == Path("/keys")
    assert store_path(None, None) is None
    assert store_path(None, LedgerConfig()) is None


def header(secret: str) -> dict[bytes, bytes]:
    return {b"authorization": f"Bearer {secret}".encode()}


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not is_so():  # noqa: ASYNC110 (what changes is another thread's)
            await asyncio.sleep(0.005)
