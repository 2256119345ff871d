"""The expressions of the files that are shipped, as Prometheus would be asked them."""

import json
import re
from typing import Any

import yaml

from servery.telemetry.monitoring import shipped

_NAME = re.compile(r"\b(?:servery|process)[_:][a-z0-9_:]+")


def rules() -> list[dict[str, Any]]:
    """Every recording and alert rule, with its group's name."""
    groups = yaml.safe_load(shipped("rules.yaml"))["groups"]
    return [{**rule, "group": group["name"]} for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """Every panel of the dashboard that asks something."""
    found: list[dict[str, Any]] = json.loads(shipped("grafana.json"))["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def asked(expression: str, interval: str = "5m") -> str:
    """An expression of the dashboard with its variables filled in: every job, every model."""
    return re.sub(r"\$(job|model)\b", ".*", expression.replace("$__rate_interval", interval))


def dashboard_expressions() -> list[str]:
    """All that the dashboard asks."""
    return [asked(target["expr"]) for panel in panels() for target in panel["targets"]]


def names(expression: str) -> set[str]:
    """The metrics that an expression reads, regular expressions of names taken apart."""
    return set(_NAME.findall(expression))
