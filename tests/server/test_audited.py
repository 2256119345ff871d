"""What administrators do through the server stands in the audit log, whatever came of it."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from servery.config.types import LedgerConfig
from servery.server.app import App
from servery.telemetry.ledger.audit import Act, AuditLog, entries
from servery.telemetry.ledger.database import open_database
from tests.server.asgi import ask
from tests.server.fakes import FakeUpstream, make_service

ADMIN = "Bearer boss-key"


class Kept(AuditLog):
    """Keeps acts in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.acts: list[Act] = []

    def record(self, act: Act) -> bool:
        self.acts.append(act)
        return True


@pytest.mark.parametrize(
    ("path", "body", "action", "subject", "outcome"),
    [
        ("/v1/config/reload", b"", "POST /v1/config/reload", "", "refused 409 no_configuration"),
        ("/v1/load_lora_adapter", b'{"lora_name": "a", "lora_path": "p"}', "POST /v1/load_lora_adapter", "a from p",
         "refused 403 lora_loading_disabled"),
        ("/sleep?model=m&secret=canary", b"", "POST /sleep", "", "refused 400 unknown_parameter"),
        ("/sleep", b"", "POST /sleep", "all to level 1", "done"),
    ],
)  # fmt: skip
def test_a_call_is_written_down_with_what_was_understood_of_it(
    path: str, body: bytes, action: str, subject: str, outcome: str
) -> None:
    async def story() -> None:
        kept = Kept()
        service = replace(make_service(FakeUpstream(), admin_keys=("boss-key",)), audit=kept)
        await ask(App(service), "POST", path, body, authorization=ADMIN)
        (act,) = kept.acts
        assert (act.action, act.subject, act.source, act.outcome) == (action, subject, "127.0.0.1", outcome)
        assert act.who.startswith("key_")

    asyncio.run(story())


def test_looking_is_no_act() -> None:
    async def story() -> None:
        kept = Kept()
        service = replace(make_service(FakeUpstream(), admin_keys=("boss-key",)), audit=kept)
        assert (await ask(App(service), "GET", "/v1/config", authorization=ADMIN)).status == 200
        assert kept.acts == []

    asyncio.run(story())


def test_who_is_turned_away_is_written_down_once_a_minute_for_each_address() -> None:
    async def story() -> None:
        kept, clock = Kept(), [0.0]
        service = replace(
            make_service(FakeUpstream(), api_keys=("user",), admin_keys=("boss-key",)),
            audit=kept,
            clock=lambda: clock[0],
        )
        app = App(service)
        assert (await ask(app, "POST", "/sleep", authorization="Bearer canary")).status == 401
        assert (await ask(app, "GET", "/v1/keys/key_1", authorization="Bearer user")).status == 403
        assert (await ask(app, "GET", "/v1/keys", peer="192.0.2.1", authorization="Bearer user")).status == 403
        clock[0] = 60.0
        assert (await ask(app, "DELETE", "/v1/keys/key_1")).status == 401
        user = service.keys.named({b"x-api-key": b"user"})
        assert [(act.who, act.action, act.subject, act.source, act.outcome) for act in kept.acts] == [
            ("unknown", "POST /sleep", "", "127.0.0.1", "turned away 401 invalid_api_key"),
            (user, "GET /v1/keys", "", "192.0.2.1", "turned away 403 admin_only"),
            ("unknown", "DELETE /v1/keys/{id}", "", "127.0.0.1", "turned away 401 invalid_api_key (1 more since the last entry)"),
        ]  # fmt: skip

    asyncio.run(story())


def test_whoever_knocks_from_everywhere_does_not_fill_the_log() -> None:
    async def story() -> None:
        kept = Kept()
        app = App(replace(make_service(FakeUpstream(), admin_keys=("boss-key",)), audit=kept))
        for number in range(150):
            assert (await ask(app, "POST", "/sleep", peer=f"192.0.2.{number}")).status == 401
        assert len(kept.acts) == 100

    asyncio.run(story())


def test_without_keys_it_was_somebody_of_this_machine(tmp_path: Path) -> None:
    async def story() -> None:
        place = LedgerConfig(path=tmp_path / "rows.sqlite")
        service = replace(make_service(FakeUpstream()), audit=AuditLog(place))
        assert (await ask(App(service), "POST", "/wake_up")).status == 200
        database = open_database(place, is_read_only=True)
        found = [entry[2:7] for entry in entries(database)]
        database.close()
        assert found == [("local", "POST /wake_up", "all", "127.0.0.1", "done")]

    asyncio.run(story())
