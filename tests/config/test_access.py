"""Keys, owners and limits in a configuration."""

import hashlib
from pathlib import Path

import pytest

from servery.config.access import limits_in, limits_shown, parse_digest, parse_time, tiers_in
from servery.config.errors import ConfigError
from servery.config.live import LiveConfig
from servery.config.load import load_config, parse_config
from servery.config.secret import Secret
from servery.config.types import KeyConfig, Limits, LimitsConfig, OnFailure, Tier

DIGEST = hashlib.sha256(b"key").hexdigest()
FILE = """
deployments: { a: { kind: vllm, url: "http://127.0.0.1:1", price: free } }
models: { m: { deployments: [a], limits: { concurrency: 9 } } }
"""


def test_a_file_says_who_may_ask_for_what_and_how_much() -> None:
    config = parse_config(
        FILE
        + f"""
server: {{ key_store: keys.sqlite }}
keys:
  app:
    sha256: [{DIGEST}, {"0" * 64}]
    owner: team
    models: [m]
    tiers: [embedded, api]
    expires: 2027-01-31
    limits: {{ requests_per_minute: 600, input_tokens_per_minute: 7, burst: 2s, dollars_per_day: 0.000001 }}
  plain: {{ sha256: {"a" * 64} }}
owners: {{ team: {{ limits: {{ dollars_per_month: $20.5, output_tokens_per_minute: 5 }} }} }}
limits: {{ redis: "redis://:${{PASSWORD}}@h:1/0", deadline: 20ms, on_failure: local, default_max_tokens: 5 }}
""",
        {"PASSWORD": "secret"},
    )
    digest = bytes.fromhex(DIGEST)
    assert dict(config.keys) == {
        "app": KeyConfig(
            name="app", digests=(digest, bytes(32)), owner="team", models=frozenset({"m"}),
            tiers=frozenset({Tier.EMBEDDED, Tier.API}), expires_s=1_801_353_600.0,
            limits=Limits(requests_per_minute=600, input_tokens_per_minute=7, burst_s=2.0, microusd_per_day=1),
        ),
        "plain": KeyConfig(name="plain", digests=(b"\xaa" * 32,)),
    }  # fmt: skip
    assert dict(config.owners) == {"team": Limits(microusd_per_month=20_500_000, output_tokens_per_minute=5)}
    assert config.models["m"].limits == Limits(concurrency=9)
    assert config.limits == LimitsConfig(
        redis=Secret("redis://:secret@h:1/0"), deadline_s=0.02, on_failure=OnFailure.LOCAL, default_max_tokens=5
    )
    assert (config.key_store, "secret" in repr(config)) == (Path.cwd() / "keys.sqlite", False)


def test_without_a_word_nothing_is_limited() -> None:
    config = parse_config(FILE, {})
    assert (dict(config.keys), dict(config.owners), config.limits, config.key_store) == ({}, {}, LimitsConfig(), None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("keys: { app: { sha256: abc } }", "keys.app.sha256: this is no SHA-256: write the 64 hex digits that `printf"),
        ("keys: { app: { sha256: [] } }", "keys.app.sha256: name at least one; remove the key to revoke it."),
        ("keys: { app: { owner: x } }", "keys.app: the key 'sha256' is missing."),
        (
            f"keys: {{ app: {{ sha256: {DIGEST} }}, web: {{ sha256: [{'a' * 64}, {DIGEST}] }} }}",
            "keys.web.sha256: 'app' has the same one; make another key for one of them.",
        ),
        (f"keys: {{ app: {{ sha256: {DIGEST}, models: [n] }} }}", "keys.app.models: there is no model 'n'."),
        (f"keys: {{ app: {{ sha256: {DIGEST}, tiers: [moon] }} }}", "'moon' is no choice; choose one of embedded,"),
        (f"keys: {{ app: {{ sha256: {DIGEST}, expires: soon }} }}", "keys.app.expires: 'soon' is no day; write 2027-01-31"),
        ("owners: { o: { limits: { burst: 2h } } }", "owners.o.limits: '2h' is no burst; it must be from 1s to 1h."),
        ("owners: { o: { limits: { requests: 2 } } }", "owners.o.limits.requests: there is no such key here."),
        ("owners: { o: { limits: { concurrency: 0 } } }", "owners.o.limits.concurrency: expected int >= 1."),
        ("limits: { redis: localhost }", "limits.redis: this is no address of a Redis; write redis://HOST:6379/0."),
        ("limits: { redis: 'redis://:pw@127.0.0.1:notaport/0' }", "limits.redis: this is no address of a Redis; write"),
        ("limits: { redis: 'redis://:pw/pw@127.0.0.1:1/0' }", "limits.redis: this is no address of a Redis; write"),
        ("limits: { redis: 'rediss://:pw@[::1/0' }", "limits.redis: this is no address of a Redis; write"),
        ("limits: { redis: 'redis://:pw@127.0.0.1:1/zero' }", "limits.redis: this is no address of a Redis; write"),
        ("limits: { on_failure: open }", "limits.on_failure: 'open' is no choice; choose one of closed, local."),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(f"{FILE}{text}\n", {})
    (fault,) = caught.value.faults
    assert fault.line == 4
    assert told in str(fault)
    assert "pw" not in str(fault)


@pytest.mark.parametrize(
    "url",
    ["redis://a", "redis://a:1/0?protocol=3", "rediss://u:pw@[::1]:6379/15", "unix:///run/redis.sock?db=1", "redis://"],
)
def test_what_a_client_of_redis_takes_is_an_address(url: str) -> None:
    found = parse_config(f"{FILE}limits: {{ redis: '{url}' }}\n", {}).limits.redis
    assert found is not None
    assert found.reveal() == url


def test_where_limits_are_counted_stays_until_the_next_start(tmp_path: Path) -> None:
    path = tmp_path / "servery.yaml"
    path.write_text(FILE + "limits: { redis: 'redis://a' }\n")
    live = LiveConfig(load_config(path, {}), {})
    path.write_text(FILE + "limits: { redis: 'redis://b' }\n")
    line = FILE.count("\n") + 1
    with pytest.raises(
        ConfigError, match=rf"line {line}: limits\.redis: it stays as it was until the server is started again"
    ):
        live.reload()
    path.write_text(FILE + "limits: { redis: 'redis://a', default_max_tokens: 5 }\n")
    assert live.reload().config.limits.default_max_tokens == 5


@pytest.mark.parametrize(
    "limits",
    [
        Limits(),
        Limits(
            requests_per_minute=1, input_tokens_per_minute=2, output_tokens_per_minute=3, concurrency=4, burst_s=2.5
        ),
        Limits(microusd_per_day=1, microusd_per_month=123_456_789),
        Limits(microusd_per_day=20_000_000, microusd_per_month=0),
    ],
)
def test_limits_are_read_as_they_are_written(limits: Limits) -> None:
    assert limits_in(limits_shown(limits)) == limits


def test_days_are_those_of_utc_and_moments_what_they_say() -> None:
    assert parse_time("1970-01-02") == 86_400
    assert parse_time("1970-01-02T00:00:01Z") == parse_time("1970-01-02T01:00:01+01:00") == 86_401
    assert parse_digest(DIGEST.upper()) == bytes.fromhex(DIGEST)
    with pytest.raises(ValueError, match="'x' is no tier; choose of embedded, self-hosted, managed, api"):
        tiers_in(["x"])
