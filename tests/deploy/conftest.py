"""A real Prometheus that scrapes the real service with the repository's own configuration."""

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loadtests.pictures import make_pictures

DEPLOY = Path(__file__).parents[2] / "deploy"
PATIENCE_SECONDS = 90.0


@pytest.fixture(scope="session")
def promtool() -> str:
    """Prometheus' own checker."""
    return program("promtool")


@pytest.fixture(scope="session")
def service_metrics(service_url: str) -> str:
    """The service's /metrics after predictions."""
    predict(service_url)
    with urllib.request.urlopen(f"{service_url}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


@pytest.fixture(scope="session")
def prometheus(service_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Prometheus"]:
    """A Prometheus that has seen predictions in two scrapes, so that rates exist."""
    folder = tmp_path_factory.mktemp("prometheus")
    shutil.copy(DEPLOY / "prometheus" / "rules.yml", folder)
    address = urllib.parse.urlsplit(service_url).netloc
    configuration = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    assert "service:8000" in configuration
    (folder / "prometheus.yml").write_text(configuration.replace("service:8000", address))
    command = [program("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--web.listen-address=127.0.0.1:0"], stdout=log, stderr=log)
    try:
        running = Prometheus(listening_url(folder / "log"))
        running.watch_predictions(service_url)
        yield running
    finally:
        process.terminate()
        process.wait(30)


def program(name: str) -> str:
    """Where a program of the Debian package prometheus is; without it the test is skipped, on CI it fails."""
    path = shutil.which(name)
    if path is None:
        give_up = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        give_up(f"{name} is not installed (apt-get install prometheus)")
    return str(path)


def predict(service_url: str) -> None:
    """One prediction of a generated picture."""
    request = urllib.request.Request(
        f"{service_url}/v1/predictions", data=make_pictures(1, seed=1)[0], headers={"Content-Type": "image/jpeg"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200


def listening_url(log: Path) -> str:
    """Where Prometheus listens, from its log: it chose a free port itself."""
    line = eventually(lambda: next((x for x in log.read_text().splitlines() if "Listening on" in x), None))
    return "http://" + line.split("address=")[1].split()[0].strip('"')


def eventually(find: Any) -> Any:
    """What `find` returns once that is true; fails after PATIENCE_SECONDS."""
    ends_at = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < ends_at:
        if found := find():
            return found
        time.sleep(0.2)
    return pytest.fail("it did not come about")


class Prometheus:
    """A running Prometheus' HTTP interface."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer; an error of Prometheus, such as a query that does not parse, fails the test."""
        question = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(question, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            return pytest.fail(f"{parameters}: {json.load(error)['error']}")

    def query(self, expression: str) -> Any:
        """The result of a PromQL expression now."""
        return self.ask("query", query=expression)["result"]

    def rules(self) -> list[dict[str, Any]]:
        """All rules it has loaded."""
        return [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]

    def watch_predictions(self, service_url: str) -> None:
        """Let it see a prediction, and later another one."""
        counted = 'sum(dermserve_requests_total{route="/v1/predictions", status="200"})'
        growth = 'sum(rate(dermserve_requests_total{route="/v1/predictions", status="200"}[5m])) > 0'
        eventually(lambda: self.started())
        predict(service_url)
        eventually(lambda: self.query(counted))
        predict(service_url)
        eventually(lambda: self.query(growth))
        before = self._evaluations()
        eventually(lambda: not before.items() & self._evaluations().items())

    def _evaluations(self) -> dict[str, str]:
        """When each rule was last evaluated."""
        return {rule["name"]: rule["lastEvaluation"] for rule in self.rules()}

    def started(self) -> bool:
        """Whether it answers yet."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
