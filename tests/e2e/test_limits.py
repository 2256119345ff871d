"""Two gateways, one Redis, one store of keys, and OpenAI's own client: nobody gets more than his budget."""

import contextlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import openai
import pytest

from servery.cli import main
from servery.telemetry.ledger.reading import rows_in
from tests.e2e.recording_upstream import COUNTS, Recorder, recording
from tests.e2e.server_process import ServerProcess, eventually

FILE = """
server: {{ port: 0, ledger: {ledger}, key_store: keys.sqlite }}
deployments: {{ a: {{ kind: openai, url: "{url}/v1", model: well, api_key: k, price: {{ input: 1, output: 1 }} }} }}
models: {{ m: {{ deployments: [a] }} }}
limits: {{ redis: "{redis}", deadline: 5s }}
"""
pytestmark = pytest.mark.slow

# A micro-dollar a token: what each answer costs, and a budget of fifty of them.
COST = COUNTS["total_tokens"]
BUDGET = 50 * COST
MAX_TOKENS = 20


@pytest.fixture(scope="module")
def gateways(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[ServerProcess], Path]]:
    folder, servers = tmp_path_factory.mktemp("limits"), list[ServerProcess]()
    with recording(Recorder()) as upstream, contextlib.ExitStack() as stack:
        for number in range(2):
            config = folder / f"servery{number}.yaml"
            config.write_text(FILE.format(url=upstream.url, redis=redis_url, ledger=f"rows{number}.sqlite"))
            servers.append(ServerProcess("--config", str(config)))
            stack.callback(servers[-1].end)
        for server in servers:
            server.wait_ready()
        yield servers, folder


def made(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[str, str]:
    """The id and the secret of a new key."""
    capsys.readouterr()
    assert main(["keys", "create", "--store", str(folder / "keys.sqlite"), *options]) == 0
    told = capsys.readouterr()
    return told.err.partition(":")[0], told.out.strip()


def client(server: ServerProcess, key: str, retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=retries)


def asked(of: openai.OpenAI, *, stream: bool = False) -> str:
    """What became of a request: "ok", or the error's code."""
    try:
        answer = of.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}], max_tokens=MAX_TOKENS, stream=stream
        )
        if isinstance(answer, openai.Stream):
            list(answer)
    except openai.APIStatusError as error:
        return str(error.code)
    return "ok"


def accepted(server: ServerProcess, key: str) -> None:
    """Wait until a server knows a key."""

    def is_known() -> bool:
        with contextlib.suppress(openai.AuthenticationError):
            client(server, key).models.list()
            return True
        return False

    eventually(is_known, "the new key")


def test_two_gateways_spend_one_budget_to_the_last_micro_dollar(
    gateways: tuple[list[ServerProcess], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    servers, folder = gateways
    key_id, secret = made(folder, capsys, "--owner", "team", "--dollars-per-day", f"{BUDGET / 1e6:.6f}")
    for server in servers:
        accepted(server, secret)
    clients = [client(server, secret) for server in servers]
    with ThreadPoolExecutor(16) as pool:
        places = zip(range(120), cycle(clients), strict=False)
        results = list(pool.map(lambda place: asked(place[1], stream=place[0] % 3 == 0), places))

    def is_spent() -> bool:
        results.append(asked(clients[0]))
        return results[-1] == "insufficient_quota"

    eventually(is_spent, "the last of the budget")
    # What others hold comes back, so that is told as a limit of the moment; what is spent, as a spent budget.
    assert set(results) <= {"ok", "rate_limit_exceeded", "insufficient_quota"}

    def spent() -> int:
        rows = [row for number in range(2) for row in rows_in(folder / f"rows{number}.sqlite")]
        return sum(row.cost_nanousd for row in rows if row.key_id == key_id) // 1000

    served = results.count("ok")
    eventually(lambda: spent() == served * COST, "all rows")
    assert BUDGET - (MAX_TOKENS + COST) < spent() <= BUDGET


def test_the_official_client_waits_as_long_as_it_is_told(
    gateways: tuple[list[ServerProcess], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    servers, folder = gateways
    _, secret = made(folder, capsys, "--requests-per-minute", "120", "--burst", "1s")
    accepted(servers[1], secret)
    patient = client(servers[1], secret, retries=4)
    assert [asked(patient) for _ in range(4)] == ["ok"] * 4
    hasty = client(servers[1], secret)
    with ThreadPoolExecutor(8) as pool:  # more than are let through in the ten seconds that the slowest machine needs
        results = set(pool.map(lambda _: asked(hasty), range(24)))
    assert results - {"ok"} == {"rate_limit_exceeded"}


def test_a_key_ends_everywhere_when_it_is_revoked(
    gateways: tuple[list[ServerProcess], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    servers, folder = gateways
    key_id, secret = made(folder, capsys)
    for server in servers:
        accepted(server, secret)
    assert main(["keys", "revoke", key_id, "--store", str(folder / "keys.sqlite")]) == 0
    assert re.match(f"{key_id} is revoked", capsys.readouterr().out)
    for server in servers:
        eventually(lambda server=server: asked(client(server, secret)) == "invalid_api_key", "the end of the key")
