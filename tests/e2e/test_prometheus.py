"""A real Prometheus scrapes a real server of two workers under load: what it has recorded is what the ledger says."""

import contextlib
import json
import subprocess
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from servery.telemetry.ledger.reading import rows_in
from servery.telemetry.ledger.row import LedgerRow
from servery.telemetry.monitoring import shipped
from tests.e2e.recording_upstream import Recorder, recording
from tests.e2e.server_process import ServerProcess, eventually
from tests.ports import free_port
from tests.telemetry.monitoring.expressions import asked, names, panels

pytestmark = pytest.mark.slow

FILE = """
server: {{ port: 0, ledger: rows.sqlite }}
deployments:
  good: {{ kind: openai, url: "{url}/v1", model: well, api_key: k, price: {{ input: 3, output: 15 }} }}
  bad: {{ kind: openai, url: "{url}/v1", model: "503", api_key: k, price: free, tier: managed }}
models:
  chat: {{ deployments: [good], slo: {{ ttft: 30s, tpot: 30s, attainment: 90% }} }}
  late: {{ deployments: [good], slo: {{ ttft: 1us, tpot: 30s, attainment: 50% }} }}
  broken: {{ deployments: [bad], retry: {{ attempts: 1 }}, slo: {{ ttft: 30s, tpot: 30s }} }}
  plain: {{ deployments: [good] }}
"""
LOAD = [*["chat"] * 30, *["late"] * 5, *["broken"] * 6, *["plain"] * 4]
UNKNOWN = 30


class Prometheus:
    """A server of Prometheus that scrapes one address every half second."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str, **query: str) -> Any:
        address = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=60) as answer:
            told = json.load(answer)
        assert told["status"] == "success"
        return told["data"]

    def ask(self, expression: str) -> dict[tuple[str, ...], float]:
        """The values of an instant by their labels' values, in the labels' order."""
        found = self.get("query", query=expression)["result"]
        return {tuple(value for _, value in sorted(each["metric"].items())): float(each["value"][1]) for each in found}

    def value(self, expression: str) -> float:
        return sum(self.ask(expression).values())


@contextlib.contextmanager
def prometheus(program: str, folder: Path, target: str) -> Iterator[Prometheus]:
    """With the rules that are shipped, evaluated every half second."""
    rules = yaml.safe_load(shipped("rules.yaml"))
    for group in rules["groups"]:
        group["interval"] = "500ms"
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    scraped = {"job_name": "servery", "scrape_interval": "500ms", "static_configs": [{"targets": [target]}]}
    config = {"rule_files": ["rules.yaml"], "scrape_configs": [scraped]}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        program, f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
    ]  # fmt: skip
    with subprocess.Popen(command) as process:
        try:
            eventually(lambda: _is_ready(port), "Prometheus")
            yield Prometheus(port)
        finally:
            process.terminate()


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=60) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


class Scene:
    """A server that has answered, what its ledger says of it, and the Prometheus that has watched."""

    def __init__(self, server: ServerProcess, watcher: Prometheus, ledger: Path) -> None:
        self.server = server
        self.watcher = watcher
        self.ledger = ledger
        self.rows: list[LedgerRow] = []

    def ask(self, model: str) -> int:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": model == "late"}
        # Nobody asks for a key here, and every unknown model comes with one of its own.
        return self.server.ask("POST", "/v1/chat/completions", body, authorization=f"Bearer sk-{model}").status

    def run(self) -> None:
        """Twice the load, so that counters have moved between scrapes; then wait until all is recorded."""
        for _ in range(2):
            with ThreadPoolExecutor(8) as pool:
                statuses = Counter(pool.map(self.ask, [*LOAD, *(f"unknown-{at}" for at in range(UNKNOWN))]))
            assert statuses == {200: 39, 503: 6, 404: UNKNOWN}
            expected = len(self.rows) + len(LOAD)
            eventually(lambda expected=expected: len(rows_in(self.ledger)) == expected, "rows")
            self.rows = rows_in(self.ledger)
            eventually(
                lambda expected=expected: self.watcher.value("sum(servery_exchanges_total)") == expected,
                "the last scrape",
            )


@pytest.fixture(scope="module")
def scene(require_program: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    program, folder = require_program("prometheus"), tmp_path_factory.mktemp("prometheus")
    with recording(Recorder()) as upstream:
        (folder / "servery.yaml").write_text(FILE.format(url=upstream.url))
        server = ServerProcess("--config", str(folder / "servery.yaml"), "--workers", "2")
        try:
            server.wait_ready()
            with prometheus(program, folder, f"127.0.0.1:{server.port}") as watcher:
                eventually(lambda: watcher.value("count(servery_exchanges_total)") > 0, "the first scrape")
                scene = Scene(server, watcher, folder / "rows.sqlite")
                scene.run()
                yield scene
        finally:
            server.end()


def counted(rows: list[LedgerRow], *fields: str) -> dict[tuple[str, ...], float]:
    return dict(Counter(tuple(getattr(row, field) or "none" for field in fields) for row in rows))


def not_zero(values: dict[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
    return {key: value for key, value in values.items() if value}


def test_exchanges_of_two_workers_add_up_to_the_ledger(scene: Scene) -> None:
    ask, rows = scene.watcher.ask, scene.rows
    by = "deployment, model_name, outcome, tier"
    assert not_zero(ask(f"sum by ({by}) (servery_exchanges_total)")) == counted(
        rows, "deployment", "served_model", "outcome", "tier"
    )
    assert set(ask("count by (worker) (servery_exchanges_total)")) == {("0",), ("1",)}
    failed = [row for row in rows if row.error]
    assert not_zero(ask("sum by (error, model_name) (servery_exchange_errors_total)")) == counted(
        failed, "error", "served_model"
    )


def test_tokens_and_money_are_those_of_the_ledger(scene: Scene) -> None:
    ask, rows = scene.watcher.ask, scene.rows
    kinds = ("prompt", "cached", "generated", "reasoning", "extra")
    assert ask("sum by (kind) (servery_exchange_tokens_total)") == {
        (kind,): sum(getattr(row, f"{kind}_tokens") for row in rows) for kind in kinds
    }
    for metric, column in (("cost", "cost_nanousd"), ("dearest", "dearest_nanousd")):
        total = scene.watcher.value(f"sum(servery_{metric}_microusd_total)")
        assert total == pytest.approx(sum(getattr(row, column) for row in rows) / 1000)
        assert total > 0


def test_every_exchange_is_good_missed_or_unjudged_as_the_ledger_says(scene: Scene) -> None:
    watcher, rows = scene.watcher, scene.rows
    for metric, verdict in (("good", True), ("miss", False), ("unjudged", None)):
        total = watcher.value(f"sum(servery_slo_{metric}_total)")
        assert total == sum(row.is_slo_met is verdict for row in rows) > 0
    assert not_zero(watcher.ask("sum by (model_name, why) (servery_slo_miss_total)")) == {
        ("broken", "error"): 12, ("late", "ttft"): 10,
    }  # fmt: skip


def test_names_that_nobody_serves_make_no_series(scene: Scene) -> None:
    assert set(scene.watcher.ask('count by (model_name) ({__name__=~"servery_.+", model_name!=""})')) == {
        ("chat",), ("late",), ("broken",), ("plain",),
    }  # fmt: skip
    refused = 'sum(servery_http_requests_total{status="404"})'
    eventually(lambda: scene.watcher.value(refused) == 2 * UNKNOWN, "a scrape behind the last of them")


def test_windows_are_told_once_for_all_workers(scene: Scene) -> None:
    good = 'sum by (model_name) (servery_slo_window_good{window="1h"})'
    expected = {("chat",): 60.0, ("late",): 0.0, ("broken",): 0.0}
    eventually(lambda: scene.watcher.ask(good) == expected, "the windows")
    attained = scene.watcher.ask('sum by (model_name) (servery_slo_attainment_ratio{window="5m"})')
    assert attained == {("chat",): 1.0, ("late",): 0.0, ("broken",): 0.0}
    told = {each["model"]: each for each in scene.server.ask("GET", "/admin/slo").json["models"]}
    assert {model: [(each["good"], each["missed"]) for each in told[model]["windows"]] for model in told} == {
        "chat": [(60, 0)] * 6, "late": [(0, 10)] * 6, "broken": [(0, 12)] * 6,
    }  # fmt: skip
    assert {model: told[model]["error_budget"]["remaining"] for model in told} == {
        "chat": 1.0, "late": pytest.approx(-1.0), "broken": pytest.approx(-99.0),
    }  # fmt: skip
    assert [each["is_firing"] for each in told["broken"]["alerts"]] == [True, True, True]


def test_the_rules_that_are_shipped_are_evaluated_and_fire(scene: Scene) -> None:
    def firing() -> set[tuple[str, str]]:
        alerts = scene.watcher.get("alerts")["alerts"]
        return {(each["labels"]["alertname"], each["labels"].get("model_name", "")) for each in alerts}

    eventually(lambda: ("ServeryErrorBudgetBurn", "broken") in firing(), "the alert")
    assert ("ServeryErrorBudgetBurn", "chat") not in firing()
    every = [rule for group in scene.watcher.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["health"] for rule in every} == {"ok"}
    assert scene.watcher.ask("servery:slo_miss:ratio_5m").keys() >= {("servery:slo_miss:ratio_5m", "servery", "broken")}


def test_the_dashboard_asks_what_prometheus_can_answer(scene: Scene) -> None:
    """Wherever there is what it asks for: a server without engines has none of theirs, and what did not happen has no series."""
    there = set(scene.watcher.get("label/__name__/values"))
    wanted = [(panel["title"], asked(target["expr"])) for panel in panels() for target in panel["targets"]]
    answerable = [(title, expression) for title, expression in wanted if names(expression) <= there]
    assert len(answerable) > 40

    def empty() -> list[str]:
        return [title for title, expression in answerable if not scene.watcher.ask(expression)]

    eventually(lambda: empty() == [], "data in every panel")  # a rate takes two scrapes


def test_what_became_of_the_slos_survives_a_restart(scene: Scene) -> None:
    """The last of these tests: the server that it ends was everybody's."""
    before = scene.server.ask("GET", "/admin/slo").json["models"]
    scene.server.end()
    later = ServerProcess("--config", str(scene.ledger.parent / "servery.yaml"))
    try:
        later.wait_ready()
        assert later.ask("GET", "/admin/slo").json["models"] == before
        assert later.metric("slo_window_good", window="30d", model_name="chat") == 60
    finally:
        later.end()
