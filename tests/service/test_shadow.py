"""The candidate runs behind the answers: it is compared, it changes nothing, and under load it does nothing."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_store.gate import judge, read_gate
from model_store.store import ModelStore
from service import shadow
from service.app import create_app
from service.choice import Wishes
from service.registry import Registry
from service.settings import Settings
from service.shadow_tally import Compared, ShadowTally, wilson_interval
from tests.conftest import encoded, lesion_picture
from tests.service.stand_ins import CONTRACT, graph, publish

PICTURES = [encoded(lesion_picture(200, 150, seed)) for seed in range(6)]
URL = "/v1/predictions"


@asynccontextmanager
async def serving(store: ModelStore, share: float = 1.0) -> AsyncIterator[httpx.AsyncClient]:
    registry = Registry(store, "lesion7", Wishes(workers=1, max_batch_size=1))
    registry.load("production")
    app = create_app(Settings(store_poll_seconds=0, shadow_share=share), registry)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        await app.state.services.follower.refresh()
        client.services = app.state.services  # type: ignore[attr-defined]
        yield client


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return publish(tmp_path / "store", {"fp32": graph()})


async def compared(client: httpx.AsyncClient, pictures: int) -> dict[str, Any]:
    """The report once that many pictures went through both."""
    async with asyncio.timeout(60):
        while (report := (await client.get("/v1/shadow")).json())["pictures"] < pictures:
            await asyncio.sleep(0.01)
    return report


async def one_by_one(client: httpx.AsyncClient, pictures: list[bytes]) -> list[dict[str, Any]]:
    answers = []
    for number, picture in enumerate(pictures, 1):
        answers.append((await client.post(URL, content=picture)).raise_for_status().json())
        await compared(client, number)
    return answers


async def test_the_same_network_agrees_with_itself(store: ModelStore) -> None:
    """In every picture, without any distance, in about the same time."""
    publish(store.root, {"fp32": graph()}, alias="candidate")
    async with serving(store) as client:
        await one_by_one(client, PICTURES)
        report = (await client.get("/v1/shadow")).json()
    assert (report["serving"]["version"], report["candidate"]["version"]) == ("1", "2")
    assert report["same_first_diagnosis"] == 1
    assert 0.5 < report["same_first_diagnosis_low"] < report["same_first_diagnosis_high"] == 1
    assert report["probability_distance"] == {"p50": 0, "p90": 0, "p99": 0, "max": 0}
    assert (report["malignancy_flips"], report["to_malignant"], report["to_benign"]) == (0, 0, 0)
    assert (report["dropped"], report["failed"]) == (0, 0)
    assert report["serving_mean_seconds"] > 0
    assert report["candidate_mean_seconds"] > 0
    assert report["latency_p99_ratio"] > 0


async def test_another_network_is_counted(store: ModelStore) -> None:
    """Distance, agreement and flips are those of the answers that both give by name."""
    publish(store.root, {"fp32": graph(seed=1)}, alias="candidate")
    async with serving(store) as client:
        ours = await one_by_one(client, PICTURES)
        theirs = [(await client.post("/v1/models/candidate/predictions", content=p)).json() for p in PICTURES]
        report = (await client.get("/v1/shadow")).json()
        metrics = (await client.get("/metrics")).text
    pairs = list(zip(ours, theirs, strict=True))
    distances = [max(abs(a["probabilities"][c] - b["probabilities"][c]) for c in a["probabilities"]) for a, b in pairs]
    same = [a["diagnoses"][0]["code"] == b["diagnoses"][0]["code"] for a, b in pairs]
    above = [(a["malignancy"]["above_threshold"], b["malignancy"]["above_threshold"]) for a, b in pairs]
    assert report["pictures"] == len(PICTURES)
    assert report["probability_distance"]["max"] == pytest.approx(max(distances), abs=1e-6)
    assert report["same_first_diagnosis"] == sum(same) / len(same)
    assert (report["to_malignant"], report["to_benign"]) == (above.count((False, True)), above.count((True, False)))
    assert f"dermserve_shadow_pictures_total {len(PICTURES)}.0" in metrics
    assert f"dermserve_shadow_same_first_diagnosis_total {sum(same)}.0" in metrics
    assert f'dermserve_shadow_malignancy_flips_total{{to="malignant"}} {above.count((False, True))}.0' in metrics


async def test_only_its_share_is_taken(store: ModelStore) -> None:
    """One picture in three with a share of a third; the answers of a version by name are none of it."""
    publish(store.root, {"fp32": graph()}, alias="candidate")
    async with serving(store, share=1 / 3) as client:
        for picture in PICTURES:
            await client.post(URL, content=picture)
            await client.post("/v1/models/2/predictions", content=picture)
            await asyncio.sleep(0.05)
        assert (await compared(client, 2))["pictures"] == 2


@pytest.mark.parametrize("candidate", [True, False], ids=["share 0", "no candidate"])
async def test_without_a_shadow_there_is_no_report(store: ModelStore, candidate: bool) -> None:
    """404 that says why."""
    if candidate:
        publish(store.root, {"fp32": graph()}, alias="candidate")
    async with serving(store, share=0.0 if candidate else 1.0) as client:
        absent = await client.get("/v1/shadow")
    assert (absent.status_code, absent.json()["code"]) == (404, "not_found")
    assert "no version runs in the shadow" in absent.json()["detail"]


async def test_a_candidate_that_fails_is_only_counted(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answers are as without it."""

    def fail(*_: Any) -> Any:
        raise RuntimeError("bad weights")

    publish(store.root, {"fp32": graph()}, alias="candidate")
    async with serving(store) as client:
        monkeypatch.setattr(shadow, "_through_candidate", fail)
        for picture in PICTURES:
            assert (await client.post(URL, content=picture)).status_code == 200
            await asyncio.sleep(0.02)
        async with asyncio.timeout(60):
            while (await client.get("/v1/shadow")).json()["failed"] < len(PICTURES):
                await asyncio.sleep(0.01)
        monkeypatch.undo()
        await client.post(URL, content=PICTURES[0])
        assert (await compared(client, 1))["pictures"] == 1


async def test_it_never_delays_an_answer(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the candidate hangs all pictures are answered; what finds no room behind it is dropped and counted."""
    publish(store.root, {"fp32": graph()}, alias="candidate")
    released, real = threading.Event(), shadow._through_candidate
    monkeypatch.setattr(shadow, "_through_candidate", lambda *given: (released.wait(60), real(*given))[1])
    async with serving(store) as client:
        for picture in PICTURES * 3:
            assert (await client.post(URL, content=picture)).status_code == 200
        await asyncio.sleep(0.01)
        report = (await client.get("/v1/shadow")).json()
        released.set()
        assert report["pictures"] == 0
        assert report["dropped"] == len(PICTURES) * 3 - 5  # one runs, four wait
        assert (await compared(client, 5))["dropped"] == report["dropped"]


async def test_under_load_it_does_nothing(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """While others wait in line the candidate is not begun."""
    publish(store.root, {"fp32": graph()}, alias="candidate")
    async with serving(store) as client:
        monkeypatch.setattr(client.services.shadow, "_is_quiet", lambda: False)  # type: ignore[attr-defined]
        for picture in PICTURES:
            await client.post(URL, content=picture)
        await asyncio.sleep(0.01)
        report = (await client.get("/v1/shadow")).json()
        metrics = (await client.get("/metrics")).text
    assert (report["pictures"], report["dropped"]) == (0, len(PICTURES))
    assert f'dermserve_shadow_dropped_total{{reason="busy"}} {len(PICTURES)}.0' in metrics


async def test_quiet_is_what_admission_and_lanes_say(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusing phase or anything in line ends the quiet."""
    async with serving(store) as client:
        services = client.services  # type: ignore[attr-defined]
        quiet: Callable[[], bool] = services.shadow._is_quiet
        assert quiet()
        monkeypatch.setattr(services.admission, "_refusing", True)
        assert not quiet()
        monkeypatch.setattr(services.admission, "_refusing", False)
        monkeypatch.setattr(services.predictor.lanes.line, "_queue", [object()])
        assert not quiet()
        monkeypatch.undo()


async def test_a_candidate_that_prepares_pictures_otherwise_is_compared_too(store: ModelStore) -> None:
    """It gets the picture, not the tensor of the other version."""
    publish(store.root, {"fp32": graph()}, alias="candidate", resize="pad")
    assert CONTRACT["resize"] != "pad"
    async with serving(store) as client:
        ours = await one_by_one(client, PICTURES)
        theirs = [(await client.post("/v1/models/2/predictions", content=p)).json() for p in PICTURES]
        report = (await client.get("/v1/shadow")).json()
    pairs = zip(ours, theirs, strict=True)
    distances = [max(abs(a["probabilities"][c] - b["probabilities"][c]) for c in a["probabilities"]) for a, b in pairs]
    assert report["probability_distance"]["max"] == pytest.approx(max(distances), abs=1e-6)
    assert report["failed"] == 0


async def test_another_candidate_begins_anew(store: ModelStore) -> None:
    """Figures of one pair of versions are never mixed with another's."""
    publish(store.root, {"fp32": graph()}, alias="candidate")
    async with serving(store) as client:
        await one_by_one(client, PICTURES)
        publish(store.root, {"fp32": graph(gain=0.5)}, alias="candidate")
        await client.services.follower.refresh()  # type: ignore[attr-defined]
        report = (await client.get("/v1/shadow")).json()
    assert (report["candidate"]["version"], report["pictures"]) == ("3", 0)
    assert report["same_first_diagnosis"] is None


async def test_the_gate_reads_the_report(store: ModelStore) -> None:
    """Its lines on a shadow run are judged, none is missing."""
    publish(store.root, {"fp32": graph()}, alias="candidate")
    async with serving(store) as client:
        await one_by_one(client, PICTURES)
        report = (await client.get("/v1/shadow")).json()
    lines = [line for line in read_gate().lines if line.report == "shadow"]
    version = store.open("lesion7", "2")
    judged = {j.name: j.passed for j in judge(read_gate(), version, None, report) if j.name in {x.name for x in lines}}
    assert len(judged) == len(lines)
    assert None not in judged.values()
    assert judged["shadow: same first diagnosis"] is True
    assert judged["shadow: pictures seen"] is False  # six say nothing


def test_the_interval_is_wilsons() -> None:
    """Against published values, and never outside [0, 1]."""
    assert wilson_interval(0, 0) == (None, None)
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=1e-4)


def test_flips_are_counted_in_both_directions() -> None:
    """By what the candidate says."""
    tally = ShadowTally((None, None))  # type: ignore[arg-type]
    for ours, theirs in [(True, True), (True, False), (False, True), (False, True), (False, False)]:
        tally.add(Compared(ours == theirs, 0.1, ours, theirs, 0.01, 0.02))
    assert (tally._to_malignant, tally._to_benign) == (2, 1)
