"""Prometheus: configuration, rules and alerts, checked by Prometheus itself."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.deploy.queries import dashboard_expressions, metric_names

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = (DEPLOY / "prometheus" / "rules.yml").read_text()
ALERTS = re.findall(r"- alert: (\w+)", RULES)


def run(*command):
    """Run a program; its output is the message when it fails."""
    done = subprocess.run(command, cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_configuration_is_valid(promtool):
    """Prometheus accepts prometheus.yml and the rules it names."""
    run(promtool, "check", "config", "prometheus.yml")


def test_rules_do_what_they_say(promtool):
    """The unit tests of the rules pass."""
    run(promtool, "test", "rules", "rules_test.yml")


def test_every_alert_is_tested_and_explained():
    """Each alert fires in rules_test.yml and has a section in the runbook, which its annotation names."""
    tested = (DEPLOY / "prometheus" / "rules_test.yml").read_text()
    sections = re.findall(r"^### (\w+)$", (DEPLOY / "RUNBOOK.md").read_text(), re.MULTILINE)
    for alert in ALERTS:
        assert re.search(rf"alertname: {alert}\n +eval_time: \w+\n +exp_alerts:\n", tested), alert
        assert f"RUNBOOK.md#{alert.lower()}" in RULES
    assert sorted(sections) == sorted(ALERTS)


def test_the_service_is_scraped(prometheus):
    """With the repository's settings Prometheus reads the running service without an error."""
    targets = prometheus.ask("targets")["activeTargets"]
    assert [(target["health"], target["lastError"]) for target in targets] == [("up", "")]


def test_rules_are_loaded_and_healthy(prometheus):
    """Every rule of rules.yml is evaluated without an error on the service's data."""
    rules = prometheus.rules()
    assert {rule["name"] for rule in rules if rule["type"] == "alerting"} == set(ALERTS)
    assert [rule["name"] for rule in rules if rule.get("lastError")] == []


def test_recorded_figures_exist(prometheus):
    """Every recording rule gives a figure for the running service."""
    recorded = [rule["name"] for rule in prometheus.rules() if rule["type"] == "recording"]
    assert recorded
    assert [name for name in recorded if not prometheus.query(f"last_over_time({name}[5m])")] == []


def test_a_healthy_service_raises_no_alert(prometheus):
    """Nothing alerts while the service answers a few predictions."""
    assert [rule["name"] for rule in prometheus.rules() if rule.get("state") == "firing"] == []


@pytest.mark.parametrize("expression", sorted(set(dashboard_expressions())))
def test_dashboard_queries_return_data(prometheus, expression):
    """A query of the dashboard parses and finds data of the running service."""
    result = prometheus.query(expression)
    # Refusals and model changes need not have happened; that their metrics exist is tested by name
    if not re.search("refusals|model_info unless", expression):
        assert result, expression


def test_metrics_exist(service_metrics):
    """Every metric that dashboard.json or rules.yml names is one of the service's."""
    exposed = set(re.findall(r"^(?:# TYPE )?(\w+)", service_metrics, re.MULTILINE))
    named = metric_names(re.sub(r"#.*", "", RULES)).union(*map(metric_names, dashboard_expressions()))
    # A counter with labels has no line before its first event, but its type is declared, in either spelling
    assert {name for name in named if name not in exposed and name.removesuffix("_total") not in exposed} == set()
