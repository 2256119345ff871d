"""A running configuration is exchanged whole or not at all."""

from pathlib import Path

import pytest

from servery.config.errors import ConfigError
from servery.config.live import Changes, LiveConfig, Reload
from servery.config.load import load_config, parse_config

TEXT = """\
server: {port: 9000}
deployments:
  here: {kind: embedded}
  api: {kind: openai, model: gpt-5.4-mini, api_key_file: key}
models:
  chat: {deployments: [here, api]}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "key").write_text("sk-1")
    path = tmp_path / "servery.yaml"
    path.write_text(TEXT)
    return path


def test_a_new_file_takes_the_old_ones_place_and_says_what_is_new(file: Path) -> None:
    live = LiveConfig(load_config(file, {}), {})
    old = live.current
    file.write_text(TEXT.replace("[here, api]}", "[api]}\n  other: {deployments: [here]}"))
    done = live.reload()
    assert done.models == Changes(added=("other",), removed=(), changed=("chat",))
    assert not done.deployments
    assert str(done.models) == "added other, changed chat"
    assert (live.current.generation, live.current.models["chat"].deployments) == (2, ("api",))
    assert (old.generation, old.models["chat"].deployments) == (1, ("here", "api"))


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("deployments: {", "not YAML"),
        (TEXT.replace("embedded", "embeded"), "Did you mean 'embedded'"),
        (TEXT.replace("9000", "9001"), "server.port: it is 9000 until the server is started again, not 9001"),
    ],
)
def test_a_bad_file_changes_nothing(file: Path, bad: str, told: str) -> None:
    live = LiveConfig(load_config(file, {}), {})
    old = live.current
    told_to: list[Reload] = []
    live.on_change(told_to.append)
    file.write_text(bad)
    with pytest.raises(ConfigError, match=told):
        live.reload()
    assert live.current is old
    assert told_to == []


def test_what_stays_until_the_next_start_is_told_with_its_line(file: Path) -> None:
    before = "server: {ledger: rows.sqlite, ledger_retention: 30d}\n" + TEXT.split("\n", 1)[1]
    file.write_text(before)
    live = LiveConfig(load_config(file, {}), {})
    file.write_text(before.replace("30d}", "9d}") + "limits:\n  default_max_tokens: 7\n  deadline: 2s\n")
    with pytest.raises(ConfigError) as caught:
        live.reload()
    stays = "it stays as it was until the server is started again."
    assert [str(fault) for fault in caught.value.faults] == [
        f"line 1: server.ledger_retention: {stays}",
        f"line 9: limits.deadline: {stays}",
    ]


def test_who_cannot_follow_keeps_the_old_one_in_force(file: Path) -> None:
    live = LiveConfig(load_config(file, {}), {})
    old = live.current

    def refuse(done: Reload) -> None:
        assert live.current is old
        raise RuntimeError("no")

    live.on_change(refuse)
    with pytest.raises(RuntimeError):
        live.reload()
    assert live.current is old


def test_a_changed_file_or_secret_is_noticed_once(file: Path) -> None:
    live = LiveConfig(load_config(file, {}), {})
    assert not live.is_stale()
    (file.parent / "key").write_text("sk-two")
    assert live.is_stale()
    assert live.reload().deployments == Changes(added=(), removed=(), changed=("api",))
    assert not live.is_stale()
    file.write_text("deployments: [")
    assert live.is_stale()
    with pytest.raises(ConfigError):
        live.reload()
    assert not live.is_stale()
    file.unlink()
    assert live.is_stale()


def test_a_file_that_was_written_while_it_was_taken_up_is_stale(file: Path) -> None:
    """It is read in a thread: what was written since, be it a secret, is neither in force nor forgotten."""
    live = LiveConfig(load_config(file, {}), {})
    for path, text in ((file, TEXT.replace("[here, api]", "[api, here]")), (file.with_name("key"), "sk-22")):
        read = live.read()
        path.write_text(text)
        live.take(read)
        assert live.is_stale()
        live.reload()
        assert not live.is_stale()
    assert live.current.models["chat"].deployments == ("api", "here")


def test_what_was_read_and_never_taken_is_still_to_be_read(file: Path) -> None:
    """Who asked for it may leave before it is read: then the next look at the file finds it as new as before."""
    live = LiveConfig(load_config(file, {}), {})
    file.write_text(TEXT.replace("[here, api]", "[api, here]"))
    live.read()
    assert live.is_stale()


@pytest.mark.parametrize("fault", ["in the file", "of who takes it"])
def test_what_cannot_be_used_is_tried_once(file: Path, fault: str) -> None:
    live = LiveConfig(load_config(file, {}), {})

    def refuse(_: Reload) -> None:
        raise ValueError(fault)

    live.on_change(refuse)
    file.write_text("deployments: {" if fault == "in the file" else TEXT.replace("[here, api]", "[api, here]"))
    with pytest.raises((ConfigError, ValueError)):
        live.reload()
    assert not live.is_stale()


def test_a_mounted_file_that_is_replaced_by_its_link_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-1")
    for name in ("one", "two"):
        (tmp_path / name).write_text(TEXT)
    link = tmp_path / "servery.yaml"
    link.symlink_to(tmp_path / "one")
    live = LiveConfig(load_config(link, {}), {})
    link.unlink()
    link.symlink_to(tmp_path / "two")
    assert live.is_stale()
    assert str(live.reload().models) == "unchanged"
    assert live.current.generation == 2


def test_what_came_from_no_file_cannot_be_read_again() -> None:
    live = LiveConfig(parse_config("deployments: {a: {kind: embedded}}\nmodels: {m: {deployments: [a]}}", {}))
    assert not live.is_stale()
    with pytest.raises(ConfigError, match="did not come from a file"):
        live.reload()
