"""A real service under load while its alias moves: nobody notices but by the version in the answer."""

import json
from pathlib import Path

import httpx
import pytest

from tests.conftest import encoded, lesion_picture, running_service
from tests.forged_candidates import Trial, trials
from tests.service.stand_ins import graph, publish
from tests.swaps import Findings, Plan, Probe, fault_of, run


async def test_fifty_swaps_under_load_lose_and_mix_nothing(tmp_path: Path) -> None:
    """Every request is answered, each by one version, bit for bit; each reload is followed by the new version."""
    plan = Plan(50, steady_seconds=1.0, interval_seconds=0.05, rate_per_second=3.0, deadline_seconds=60, shipped=False)
    found = await run(plan, tmp_path)
    assert found.faults == []
    assert "Errors                    none" in found.load_report
    assert "Refused with Retry-After  none" in found.load_report
    assert len(found.swaps) == 50
    assert {probe.version for probe in found.probes} == {"1", "2"}


def test_a_mixed_answer_would_be_noticed() -> None:
    """The comparison that the test above relies on tells one version's probabilities under another's name."""
    import numpy as np

    right = {("sha256:a", "fp32"): [np.array([0.25, 0.75], np.float32)]}
    body = {"model": {"digest": "sha256:a", "variant": "fp32", "version": "1"}, "probabilities": {"a": 0.25, "b": 0.75}}
    assert fault_of(httpx.Response(200, json=body), 0, right) is None
    body["probabilities"] = {"a": 0.25000003, "b": 0.75}
    assert fault_of(httpx.Response(200, json=body), 0, right) == "a mixed answer of version 1"
    assert "status 503" in str(fault_of(httpx.Response(503), 0, right))
    assert Probe(0.0, 0.1, None, "status 503").fault


def test_seconds_are_told_apart_by_the_last_command() -> None:
    """What happens in a swap's first second, while the rest of its work is done, and between swaps."""
    found = Findings(swaps=[(10.0, 10.1, 10.2), (20.0, 20.1, 20.2)])
    times = {5.0: 1.0, 10.5: 2.0, 12.0: 3.0, 13.5: 1.0, 19.9: 1.0, 20.0: 2.0, 22.9: 3.0, 29.0: 9.0}
    found.last_compared = 25.0
    found.probes = [Probe(due, seconds, "1", None) for due, seconds in times.items()]
    assert [set(seconds) for seconds in found.seconds_by_phase().values()] == [{2.0}, {3.0}, {1.0}]


def test_polling_alone_follows_the_alias(tmp_path: Path) -> None:
    """Without any call: the new version serves within seconds, and the old one after a rollback."""
    store = publish(tmp_path / "store", {"fp32": graph()})
    publish(store.root, {"fp32": graph(seed=1)}, alias=None)
    options = ("--store", str(store.root), "--store-poll-seconds", "0.2")
    with running_service(tmp_path / "log", *options) as service, httpx.Client(base_url=service.url) as client:

        def wait_for(version: str) -> None:
            for _ in range(600):
                answer = client.post("/v1/predictions", content=encoded(lesion_picture(200, 150)), timeout=30)
                if answer.raise_for_status().json()["model"]["version"] == version:
                    return
            pytest.fail(f"version {version} never came")

        store.promote("lesion7", "2")
        wait_for("2")
        store.rollback("lesion7")
        wait_for("1")
        lines = [json.loads(line) for line in service.log.read_text().splitlines()]
        assert [line["version"] for line in lines if line["event"] == "model serves"] == ["1", "2", "1"]


async def test_no_forged_candidate_serves(tmp_path: Path) -> None:
    """Each is refused with a reason, and the old version goes on answering; some of each kind."""
    wrong: list[Trial] = [trial async for trial in trials(count=130, seed=1, folder=tmp_path) if trial.fault]
    assert wrong == []
