"""`servery keys` as somebody types it."""

import contextlib
import json
from pathlib import Path

import pytest

from servery.cli import main
from servery.server.key_store import KeyStore, KeyTerms

CONFIG = """
server: { ledger: ledger.sqlite }
deployments: { here: { kind: vllm, url: "http://127.0.0.1:1/v1", model: m, price: free } }
models: { chat: { deployments: [here] } }
"""


def test_a_key_is_made_listed_rotated_and_revoked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ["--store", str(tmp_path / "keys.sqlite")]
    asked = ["--name", "mobile app", "--owner", "apps", "--model", "chat", "--tier", "api", "--expires", "2099-01-31"]
    limits = ["--requests-per-minute", "600", "--dollars-per-month", "50", "--burst", "6s"]
    assert main(["keys", "create", *store, *asked, *limits]) == 0
    told = capsys.readouterr()
    secret = told.out.strip()
    key_id = told.err.partition(":")[0]
    assert told.err == f"{key_id}: keep the secret now, it is not shown again.\n"
    assert main(["keys", "list", *store]) == 0
    listed = capsys.readouterr().out
    head, row = listed.splitlines()
    assert head.split() == ["ID", "STATE", "SECRETS", "OWNER", "NAME", "MODELS", "TIERS", "EXPIRES", "LIMITS"]
    assert row.split() == [
        key_id, "active", f"{secret[:16]}...", "apps", "mobile", "app", "chat", "api", "2099-01-31T00:00:00Z",
        "requests_per_minute", "600,", "dollars_per_month", "50,", "burst", "6s",
    ]  # fmt: skip
    assert secret not in listed
    assert main(["keys", "rotate", key_id, *store, "--overlap", "2h", "--json"]) == 0
    rotated = json.loads(capsys.readouterr().out)
    assert (rotated["id"], len(rotated["secrets"]), rotated["key"] != secret) == (key_id, 2, True)
    assert main(["keys", "revoke", key_id, *store]) == 0
    assert capsys.readouterr().out.startswith(f"{key_id} is revoked.")
    assert main(["keys", "list", *store, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["state"], found["secrets"]) == ("revoked", [])


def test_a_list_shows_names_from_before_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.sqlite"
    with contextlib.closing(KeyStore(path)) as store:
        store.create(KeyTerms(name="a\n\x1b[2Jb", owner="o\rp"))
    assert main(["keys", "list", "--store", str(path)]) == 0
    _head, row = capsys.readouterr().out.splitlines()
    assert ("a\\n\\x1b[2Jb" in row, "o\\rp" in row) == (True, True)


def test_keys_lie_where_the_configuration_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "servery.yaml"
    config.write_text(CONFIG)
    assert main(["keys", "create", "--config", str(config)]) == 0
    assert (tmp_path / "servery-keys.sqlite").is_file()
    config.write_text(CONFIG.replace("ledger: ledger.sqlite", "key_store: here.sqlite"))
    assert main(["keys", "create", "--config", str(config)]) == 0
    assert (tmp_path / "here.sqlite").is_file()
    config.write_text(CONFIG.replace("server: { ledger: ledger.sqlite }", ""))
    assert main(["keys", "create", "--config", str(config)]) == 2
    assert "names no key_store and no ledger" in capsys.readouterr().err


def test_a_key_for_a_model_that_the_configuration_does_not_have_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "servery.yaml"
    config.write_text(CONFIG)
    assert main(["keys", "create", "--config", str(config), "--model", "chat", "--model", "chta"]) == 2
    assert f"--model: there is no model 'chta' in {config}; it has: chat." in capsys.readouterr().err
    assert not (tmp_path / "servery-keys.sqlite").exists()
    assert main(["keys", "create", "--config", str(config), "--model", "chat"]) == 0


def test_somebody_has_to_say_where_the_keys_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "list"]) == 2
    assert "say where the keys are: --store FILE, or --config FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["list"], "there are no keys in"),
        (["revoke", "key_1"], "`servery keys create` makes the first"),
        (["create", "--expires", "soon"], "--expires: 'soon' is no day"),
        (["create", "--expires", "1999-01-01"], "--expires: '1999-01-01' is over"),
        (["create", "--name", "two\nlines"], "--name: 'two\\nlines' has characters that cannot be shown"),
        (["create", "--owner", "\x1b[2J"], "--owner: '\\x1b[2J' has characters that cannot be shown"),
        (["create", "--requests-per-minute", "0"], "limits: Expected 'int' >= 1"),
        (["rotate", "key_1", "--overlap", "long"], "--overlap: 'long' is not a time with its unit"),
    ],
)
def test_what_cannot_be_done_is_said(
    arguments: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", *arguments, "--store", str(tmp_path / "keys.sqlite")]) == 2
    assert text in capsys.readouterr().err


def test_what_was_done_to_keys_of_a_store_is_in_an_audit_log_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ["--store", str(tmp_path / "keys.sqlite")]
    assert main(["keys", "create", *store, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert main(["keys", "list", *store]) == 0
    assert main(["keys", "revoke", made["id"], *store]) == 0
    capsys.readouterr()
    assert main(["ledger", "audit", str(tmp_path / "keys-audit.sqlite"), "--json"]) == 0
    told = capsys.readouterr().out
    assert [(each["action"], each["subject"], each["source"]) for each in json.loads(told)["entries"]] == [
        (f"keys {verb}", made["id"], "command line") for verb in ("create", "revoke")
    ]
    assert made["key"] not in told


def test_what_the_audit_log_does_not_take_is_done_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keys-audit.sqlite").write_text("no database, and long enough to be seen as none" * 10)
    assert main(["keys", "create", "--store", str(tmp_path / "keys.sqlite")]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("sk-servery-")
    assert "keys-audit.sqlite has not taken this; it was done all the same." in told.err


def test_what_was_done_to_keys_is_in_the_ledger_that_the_configuration_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "servery.yaml").write_text(CONFIG)
    config = ["--config", str(tmp_path / "servery.yaml")]
    assert main(["keys", "create", *config, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert main(["keys", "rotate", made["id"], *config]) == 0
    assert main(["keys", "revoke", made["id"], *config]) == 0
    capsys.readouterr()
    assert main(["ledger", "audit", str(tmp_path / "servery.yaml"), "--json"]) == 0
    told = capsys.readouterr().out
    assert [(each["action"], each["subject"], each["source"]) for each in json.loads(told)["entries"]] == [
        (f"keys {verb}", made["id"], "command line") for verb in ("create", "rotate", "revoke")
    ]
    assert made["key"] not in told
