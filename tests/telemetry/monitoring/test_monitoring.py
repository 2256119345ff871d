import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from servery.telemetry import monitoring
from servery.telemetry.metrics import Metrics
from servery.telemetry.slo import ALERT_RULES, LEAST_MISSES
from tests.telemetry.monitoring.expressions import asked, dashboard_expressions, names, panels, rules

FOLDER = Path(monitoring.__file__).parent
# What the dashboard leaves out, because a panel has it already, in other words or put together from the same; or because it
# is what happened once, at the start.
SAID_OTHERWISE = {
    "servery_engine_all_reduce_seconds", "servery_engine_cuda_graph_seconds_total", "servery_engine_cuda_graphs",
    "servery_engine_load_link_bytes_per_second", "process_max_fds", "process_start_time_seconds", "process_virtual_memory_bytes",
    "servery_engine_operations_total", "servery_engine_read_bytes_total", "servery_kv_cache_tokens",
    "servery_generation_tokens_total", "servery_prompt_tokens_total", "servery_prompt_tokens_cached_total",
    "servery_slo_objective_ratio", "servery_slo_window_good", "servery_slo_window_missed",
    "servery_spec_decode_draft_acceptance_rate", "servery_spec_decode_num_drafts_total",
}  # fmt: skip
_SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def exported() -> set[str]:
    """The names of all series that a server can have."""
    types = re.findall(r"^# TYPE (\S+) (\w+)$", Metrics().render().decode(), re.MULTILINE)
    return {name + suffix for name, kind in types for suffix in _SUFFIXES[kind]}


def _family(name: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", name)


def promtool(require_program: Callable[[str], str], *words: str, cwd: Path | None = None) -> str:
    program = require_program("promtool")
    done = subprocess.run([program, *words], capture_output=True, text=True, timeout=60, cwd=cwd, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_rules_do_what_they_say(require_program: Callable[[str], str], tmp_path: Path) -> None:
    tests = (Path(__file__).parent / "rules_test.yaml").read_text().replace("RULES", str(FOLDER / "rules.yaml"))
    (tmp_path / "rules_test.yaml").write_text(tests)
    assert "SUCCESS" in promtool(require_program, "test", "rules", str(tmp_path / "rules_test.yaml"))


def test_prometheus_takes_the_files(require_program: Callable[[str], str]) -> None:
    promtool(require_program, "check", "config", "prometheus.yaml", cwd=FOLDER)


def test_rules_and_dashboard_read_metrics_that_there_are() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    known = exported() | recorded
    for expression in [*(rule["expr"] for rule in rules()), *dashboard_expressions()]:
        assert names(expression) <= known, expression
        assert names(expression), expression


def test_the_dashboard_has_every_metric_that_says_something_of_its_own() -> None:
    read = {_family(name) for expression in dashboard_expressions() for name in names(expression)}
    assert {_family(name) for name in exported()} - read == SAID_OTHERWISE


def test_the_page_of_metrics_names_all_of_them() -> None:
    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    known = {_family(name) for name in exported() if name.startswith("servery_")}
    assert {name for name in known if f"`{name}`" not in page} == set()


def test_what_alerts_are_made_of_goes_to_cloudwatch_too() -> None:
    recorded = {rule["record"]: names(rule["expr"]) for rule in rules() if "record" in rule}
    asked = {name for rule in rules() if "alert" in rule for name in names(rule["expr"])}
    while asked & recorded.keys():
        asked = {inner for name in asked for inner in recorded.get(name, {name})}
    config: dict[str, Any] = yaml.safe_load(monitoring.shipped("collector-aws.yaml"))
    (job,) = config["receivers"]["prometheus"]["config"]["scrape_configs"]
    (relabel,) = job["metric_relabel_configs"]
    assert {name for name in asked if not re.fullmatch(relabel["regex"], name)} <= {"servery_slo_objective_ratio"}


def test_prometheus_understands_what_the_dashboard_asks(require_program: Callable[[str], str], tmp_path: Path) -> None:
    asking = [{"record": f"x:{at}", "expr": each} for at, each in enumerate(dashboard_expressions())]
    (tmp_path / "asked.yaml").write_text(json.dumps({"groups": [{"name": "x", "rules": asking}]}))
    promtool(require_program, "check", "rules", str(tmp_path / "asked.yaml"))


def test_burn_rate_alerts_are_those_of_the_server() -> None:
    found = [rule for rule in rules() if rule.get("alert") == "ServeryErrorBudgetBurn"]
    assert len(found) == len(ALERT_RULES)
    for rule, expected in zip(found, ALERT_RULES, strict=True):
        assert rule["labels"] == {"severity": expected.severity, "long_window": expected.long}
        burns = [
            f"servery:slo_burn_rate:ratio_{window} > {expected.threshold:g}"
            for window in (expected.long, expected.short)
        ]
        enough = f"sum_over_time(servery:slo_missed:rate5m[{expected.long}]) * 30 >= {LEAST_MISSES}"
        assert " ".join(rule["expr"].split()) == " and ".join([*burns, enough])


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    board = json.loads(monitoring.shipped("grafana.json"))
    assert (board["uid"], board["schemaVersion"]) == ("servery", 38)
    assert [each["name"] for each in board["templating"]["list"]] == ["datasource", "job", "model"]
    every = board["panels"]
    assert len({each["id"] for each in every}) == len(every)
    for panel in panels():
        assert panel["type"] in ("timeseries", "stat")
        assert panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs) > 0
        assert set(re.findall(r"\$\w+", " ".join(target["expr"] for target in panel["targets"]))) <= {
            "$job", "$model", "$__rate_interval",
        }  # fmt: skip


def test_panels_lie_beside_each_other_and_within_the_width() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(monitoring.shipped("grafana.json"))["panels"]:
        at: dict[str, int] = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_collectors_configuration_connects_what_it_names() -> None:
    config: dict[str, Any] = yaml.safe_load(monitoring.shipped("collector-aws.yaml"))
    for pipeline in config["service"]["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(config[kind])
    (job,) = config["receivers"]["prometheus"]["config"]["scrape_configs"]
    (relabel,) = job["metric_relabel_configs"]
    kept = {name for name in exported() if re.fullmatch(relabel["regex"], name)}
    listed = re.findall(r"[a-z_]{4,}", relabel["regex"].partition("(")[2].partition(")")[0])
    assert {name for name in listed if not any(each.startswith(f"servery_{name}") for each in kept)} == set()
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in kept}
    declared = [
        selector
        for declaration in config["exporters"]["awsemf"]["metric_declarations"]
        for selector in declaration["metric_name_selectors"]
    ]
    assert [name for name in families if not any(re.search(each, name) for each in declared)] == []
    assert [each for each in declared if not any(re.search(each, name) for name in families)] == []


def test_the_files_are_written_where_they_are_wanted_and_over_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from servery.telemetry.monitoring.__main__ import main

    folder = tmp_path / "monitoring"
    monkeypatch.setattr("sys.argv", ["monitoring", str(folder)])
    assert main() == 0
    assert capsys.readouterr().out.splitlines() == [str(folder / name) for name in monitoring.NAMES]
    assert (folder / "rules.yaml").read_text() == (FOLDER / "rules.yaml").read_text()
    (folder / "rules.yaml").write_text("mine")
    assert main() == 1
    assert "rules.yaml is there already; name another folder" in capsys.readouterr().err
    assert (folder / "rules.yaml").read_text() == "mine"
    with pytest.raises(KeyError, match=r"alerts.yaml is none of rules.yaml, prometheus.yaml"):
        monitoring.shipped("alerts.yaml")


def test_variables_are_filled_in_for_every_job_and_model() -> None:
    assert (
        asked('rate(a{job=~"$job", model_name=~"$model"}[$__rate_interval])', "1m")
        == 'rate(a{job=~".*", model_name=~".*"}[1m])'
    )
