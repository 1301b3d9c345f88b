"""Dockerfile, compose.yaml, Grafana's provisioning: what they refer to exists, what they promise is written there."""

import json
import re
import shlex
from pathlib import Path, PurePosixPath

import pytest
import yaml

from tests.deploy.queries import dashboard

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = sorted(COMPOSE["services"])
DOCKERFILE = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())


def instructions(name):
    """Arguments of every instruction of this name in the Dockerfile, in order."""
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


def stage(name):
    """The instructions of one stage, its FROM excluded."""
    return re.search(rf"^FROM \S+ AS {name}\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)[1]


def test_copied_files_exist_and_reach_the_build():
    """Whatever the Dockerfile copies exists and is let through by .dockerignore."""
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = [word for copied in instructions("COPY") if "--from" not in copied for word in copied.split()[:-1]]
    assert {source.rstrip("/") for source in sources} == let_through
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_the_service_is_the_default_image():
    """`docker build .` without a target builds the service."""
    assert instructions("FROM")[-1].endswith(" AS service")


def test_the_service_image_has_no_training():
    """Neither torch nor training code comes into the service's image."""
    assert not re.search(r"torch|training", stage("service") + stage("build-service") + stage("base"))


@pytest.mark.parametrize("name", ["service", "training"])
def test_images_run_without_root(name):
    """Both images run under a numeric user that is not root."""
    assert re.search(r"^USER 10001:10001$", stage(name), re.MULTILINE)


def test_the_service_is_process_one():
    """CMD is in exec form, so that SIGTERM reaches the service and not a shell."""
    command = json.loads(re.search(r"^CMD (.*)$", stage("service"), re.MULTILINE)[1])
    scripts = re.search(r"\[project.scripts\]\n(.*?)\n\n", (ROOT / "pyproject.toml").read_text(), re.DOTALL)[1]
    assert command == ["dermserve"]
    assert "dermserve = " in scripts
    assert "STOPSIGNAL SIGTERM" in stage("service")


def test_the_health_check_is_a_program():
    """The image's health check is valid Python that asks for readiness."""
    check = re.search(r"HEALTHCHECK .*? CMD (.*)$", stage("service"), re.MULTILINE)[1]
    program, option, source = json.loads(check)
    assert (program, option) == ("python", "-c")
    compile(source, "HEALTHCHECK", "exec")
    assert "/readyz" in source


def test_versions_come_from_the_lock_file():
    """Every pip install of the Dockerfile is held to requirements.lock."""
    installs = re.findall(r"pip install ([^\n]*)", DOCKERFILE)
    assert len(installs) == 2
    assert all(shlex.split(install)[:2] == ["-c", "requirements.lock"] for install in installs)


@pytest.mark.parametrize("name", SERVICES)
def test_containers_are_hardened(name):
    """Read-only root, no capabilities, no new privileges, a memory limit, a health check."""
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", SERVICES)
def test_only_this_machine_is_served(name):
    """Published ports are bound to the loopback address."""
    assert all(port.startswith("127.0.0.1:") for port in COMPOSE["services"][name]["ports"])


@pytest.mark.parametrize("name", SERVICES)
def test_image_tags_are_pinned(name):
    """Every image has the tag of one version."""
    assert re.search(r":v?\d+\.\d+\.\d+$", COMPOSE["services"][name]["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_mounted_files_exist(name):
    """What compose mounts from the repository is there, and is mounted read-only."""
    volumes = [volume.split(":") for volume in COMPOSE["services"][name].get("volumes", [])]
    for source, _, *mode in [volume for volume in volumes if volume[0].startswith(".")]:
        assert (DEPLOY / source).exists(), source
        assert mode == ["ro"]
    assert {volume[0] for volume in volumes if not volume[0].startswith(".")} <= set(COMPOSE["volumes"])


def test_pictures_have_nowhere_to_be_written():
    """The service's container has no volume, no tmpfs and no swap."""
    service = COMPOSE["services"]["service"]
    assert not {"volumes", "tmpfs"} & set(service)
    assert service["memswap_limit"] == service["mem_limit"]


def test_prometheus_scrapes_the_composed_service():
    """The target in prometheus.yml is the service's name in compose and the port of its image."""
    configuration = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    targets = configuration["scrape_configs"][0]["static_configs"][0]["targets"]
    assert targets == [f"service:{instructions('EXPOSE')[0]}"]


def test_grafana_finds_its_dashboard():
    """The provider's path and the home dashboard are where compose mounts the dashboard."""
    grafana = COMPOSE["services"]["grafana"]
    mounts = {target: DEPLOY / source for source, target, *_ in (v.split(":") for v in grafana["volumes"])}
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/dermserve.yaml").read_text())["providers"][0]
    home = PurePosixPath(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    assert (mounts[str(home.parent)] / home.name).exists()


def test_dashboard_uses_the_provisioned_data_source():
    """Every query goes to the data source that is provisioned, at the address compose gives it."""
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())["datasources"][0]
    panels = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
    used = {target["datasource"]["uid"] for panel in panels for target in panel["targets"]}
    assert used == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in SERVICES


def test_dashboard_panels_are_explained_and_do_not_overlap():
    """Every panel has a title, a description and a place of its own in the 24 columns."""
    taken = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert panel["title"]
        assert panel["type"] == "row" or panel["description"].endswith(".")
        assert not taken & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(dashboard()["panels"])


def test_runbook_names_real_settings():
    """Every DERMSERVE_ variable in the runbook and in compose is a setting of the service."""
    from service.settings import Settings

    known = {f"DERMSERVE_{name.upper()}" for name in Settings.model_fields}
    text = "".join((DEPLOY / name).read_text() for name in ("RUNBOOK.md", "compose.yaml"))
    assert set(re.findall(r"DERMSERVE_[A-Z_]+", text)) <= known
