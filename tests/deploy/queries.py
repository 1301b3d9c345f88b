"""The PromQL expressions of the dashboard and the metric names in an expression."""

import json
import re
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards" / "dashboard.json"
METRIC = re.compile(r"\b(?:dermserve|process|python)_[a-z0-9_]+")


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    parsed: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return parsed


def dashboard_expressions() -> list[str]:
    """Every expression, Grafana's variables replaced by a window."""
    written = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]
    written += [annotation["expr"] for annotation in dashboard()["annotations"]["list"]]
    return [expression.replace("$__rate_interval", "1m").replace("$__range", "1h") for expression in written]


def metric_names(expression: str) -> set[str]:
    """Names of the service's metrics in an expression."""
    return set(METRIC.findall(expression))
