"""The engine is chosen by measurement, once per machine and version, and everything can be set by hand."""

import itertools
import json
import logging
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from model_store.store import SHIPPED, ModelStore, ModelVersion
from service.app import create_app
from service.choice import Candidate, Measured, Wishes, choose
from service.choice_cache import ChoiceCache
from service.engine import Engine, SelfTestError
from service.machine import Machine, available_cores, this_machine
from service.registry import Registry
from service.settings import Settings
from service.tuning import Run, batch_job, measured_choice, tuned_engine
from tests.conftest import clean_environment, running_service
from tests.service.stand_ins import graph, publish

MACHINE = Machine("a processor", cores=2, onnxruntime="1.0")
SLOWER = Measured("fp32", 1, 2, 1, 0.018, 100.0, 0.022, rounds=3)
FASTER = Measured("int8", 1, 2, 1, 0.008, 200.0, 0.012, rounds=3)


@pytest.fixture
def version(tmp_path: Path) -> ModelVersion:
    """fp32 is slower, both answer rightly."""
    return publish(tmp_path / "store", {"fp32": graph(slow=True), "int8": graph()}).verify("lesion7", "production")


@pytest.fixture
def cache(tmp_path: Path) -> ChoiceCache:
    return ChoiceCache(tmp_path / "engine")


def candidates(measured: list[Measured]) -> set[Candidate]:
    return {m.candidate for m in measured}


def test_what_else_runs_does_not_speak_against_one_thread(
    version: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session of one thread is measured in processor time; one of several, whose threads wait for each other, not."""
    ticks = itertools.count(0.0, 1000.0)
    monkeypatch.setattr("time.thread_time", lambda: next(ticks))
    assert batch_job(Engine(version, "fp32", threads_per_session=1), version)(1) == Run(2000.0, 1000.0)
    assert batch_job(Engine(version, "fp32", threads_per_session=2), version)(1).whole_seconds < 1000.0


def test_the_most_pictures_a_second_win() -> None:
    """However fast another one answers a single picture."""
    at_once = replace(SLOWER, alone_seconds=0.001)
    assert choose([at_once, FASTER], {}, ()).variant == "int8"


def test_of_equals_the_one_that_answers_soonest_wins() -> None:
    """Within 5 % of the best rate; not beyond."""
    two_threads = Measured("int8", 2, 1, 1, 0.005, 191.0, 0.007, rounds=3)
    assert choose([FASTER, two_threads], {}, ()).threads_per_session == 2
    assert choose([FASTER, replace(two_threads, pictures_per_second=189.0)], {}, ()).threads_per_session == 1


def test_a_lone_picture_gets_the_threads_that_answer_it_soonest() -> None:
    """Of the same variant, and only where they answer it a tenth sooner."""
    two_threads = Measured("int8", 2, 1, 1, 0.005, 150.0, 0.0108, rounds=3)
    assert choose([FASTER, two_threads], {}, ()).threads_alone == 2
    assert choose([FASTER, replace(two_threads, alone_seconds=0.0109)], {}, ()).threads_alone == 1
    assert choose([FASTER, replace(two_threads, variant="fp32")], {}, ()).threads_alone == 1


def test_a_candidate_is_as_good_as_its_best_batch_size() -> None:
    """Rate and gain are those of the best size; seconds stand by size."""
    pair = replace(SLOWER, batch_size=2, inference_seconds=0.02, pictures_per_second=210.0)
    choice = choose([SLOWER, pair, FASTER], {}, ())
    assert (choice.variant, choice.inference_seconds) == ("int8", {1: 0.008})
    choice = choose([SLOWER, replace(pair, pictures_per_second=250.0), FASTER], {}, ())
    assert (choice.variant, choice.inference_seconds) == ("fp32", {1: 0.018, 2: 0.02})
    assert (choice.pictures_per_second, choice.batching_gain) == (250.0, pytest.approx(1.8))


@pytest.mark.parametrize(
    ("wishes", "cores", "layouts"),
    [
        (Wishes(), 1, {(1, 1)}),
        (Wishes(), 2, {(1, 2), (2, 1)}),
        (Wishes(), 6, {(1, 6), (2, 3), (4, 1), (6, 1)}),
        (Wishes(workers=1), 2, {(1, 1), (2, 1)}),
        (Wishes(workers=3), 2, {(1, 3)}),
        (Wishes(threads_per_session=2), 4, {(2, 2)}),
        (Wishes(threads_per_session=2, workers=3), 2, {(2, 3)}),
    ],
)
def test_every_way_to_use_the_cores_is_measured(
    version: ModelVersion, wishes: Wishes, cores: int, layouts: set[tuple[int, int]]
) -> None:
    """For both variants: threads per session and workers that fill the cores, less what is fixed by hand."""
    wanted = {Candidate(variant, *layout) for variant in ("fp32", "int8") for layout in layouts}
    assert candidates(measured_choice(version, wishes, cores).measured) == wanted


@pytest.mark.parametrize(("largest", "sizes"), [(1, {1}), (3, {1, 2}), (8, {1, 2, 4, 8}), (256, {1, 2, 4, 8})])
def test_batch_sizes_are_measured_up_to_the_largest(version: ModelVersion, largest: int, sizes: set[int]) -> None:
    """In powers of two; size 1 always."""
    assert set(measured_choice(version, Wishes(max_batch_size=largest), 1).inference_seconds) == sizes


def test_by_hand_only_the_batches_are_measured(version: ModelVersion) -> None:
    """All three fixed: one candidate, even the slow one, and the choice says so."""
    choice = measured_choice(version, Wishes("fp32", 1, 1, max_batch_size=2), cores=4)
    assert candidates(choice.measured) == {Candidate("fp32", 1, 1)}
    assert choice.set_by_hand == ("variant", "threads_per_session", "workers")


def test_a_second_start_measures_nothing(version: ModelVersion, cache: ChoiceCache) -> None:
    """The same figures, marked as remembered."""
    _, first = tuned_engine(version, Wishes(), MACHINE, cache)
    cache.remember(MACHINE, version.digest, Wishes(), first)  # also where this machine was too busy to be sure
    engine, second = tuned_engine(version, Wishes(), MACHINE, cache)
    assert (first.cached, second) == (False, replace(first, cached=True))
    assert engine.variant == first.variant


def test_a_hurried_measurement_is_not_remembered(
    version: ModelVersion, cache: ChoiceCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start on a busy machine does not wait for all rounds, and the next start measures again."""
    monkeypatch.setattr("service.tuning._PATIENCE_SECONDS", 0)
    _, choice = tuned_engine(version, Wishes(), MACHINE, cache)
    assert {m.rounds for m in choice.measured} == {1}
    assert cache.recall(MACHINE, version.digest, Wishes()) is None


def test_another_machine_version_or_wish_is_measured_anew(version: ModelVersion, cache: ChoiceCache) -> None:
    """Nothing is taken over from what differs in any of them."""
    choice = choose([FASTER], {}, ())
    cache.remember(MACHINE, version.digest, Wishes(), choice)
    assert cache.recall(MACHINE, version.digest, Wishes()) == choice
    others = [replace(MACHINE, processor="b"), replace(MACHINE, cores=3), replace(MACHINE, onnxruntime="2")]
    assert [cache.recall(other, version.digest, Wishes()) for other in others] == [None] * 3
    assert cache.recall(MACHINE, "sha256:0", Wishes()) is None
    assert cache.recall(MACHINE, version.digest, Wishes(workers=2)) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("0.008", "-0.008"),
        lambda text: text.replace("0.008", "NaN"),
        lambda text: text.replace("a processor", "another processor"),
        lambda text: text.replace('"batch_size": 1', '"batch_size": 2'),
        lambda text: text.replace('"measured": [', '"measured": [], "other": ['),
    ],
    ids=["empty", "cut off", "negative", "not a number", "another machine's", "without size 1", "unknown part"],
)
def test_a_damaged_memory_is_no_memory(tmp_path: Path, damage, cache: ChoiceCache) -> None:
    """It is not used, and not in the way."""
    choice = choose([FASTER], {}, ())
    cache.remember(MACHINE, "sha256:1", Wishes(), choice)
    (file,) = (tmp_path / "engine").iterdir()
    file.write_text(damage(file.read_text()))
    assert cache.recall(MACHINE, "sha256:1", Wishes()) is None
    cache.remember(MACHINE, "sha256:1", Wishes(), choice)
    assert cache.recall(MACHINE, "sha256:1", Wishes()) == choice


def test_a_folder_that_cannot_be_written_stops_nothing(
    version: ModelVersion, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The choice is measured, and one line says that it is not remembered."""
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.INFO):
        ChoiceCache(tmp_path / "file").remember(MACHINE, version.digest, Wishes(), choose([FASTER], {}, ()))
    assert [record.getMessage() for record in caplog.records] == ["engine choice not remembered"]
    assert ChoiceCache(tmp_path / "file").recall(MACHINE, version.digest, Wishes()) is None


def test_a_remembered_variant_still_has_to_answer_rightly(tmp_path: Path, cache: ChoiceCache) -> None:
    """One that has become wrong since is refused, and the start measures anew."""
    graphs, right = {"fp32": graph(), "int8": graph(gain=2.0)}, {"fp32": graph(), "int8": graph()}
    version = publish(tmp_path / "store", graphs, right).verify("lesion7", "production")
    cache.remember(MACHINE, version.digest, Wishes(), choose([FASTER], {}, ()))
    engine, choice = tuned_engine(version, Wishes(), MACHINE, cache)
    assert (engine.variant, choice.cached, set(choice.refused)) == ("fp32", False, {"int8"})


def test_without_any_right_variant_there_is_no_engine(tmp_path: Path) -> None:
    """The error names each."""
    wrong, right = graph(gain=2.0), graph()
    version = publish(tmp_path, {"fp32": wrong, "int8": wrong}, {"fp32": right, "int8": right}).verify("lesion7", "1")
    with pytest.raises(SelfTestError, match="fp32: golden probabilities differ.*int8: golden probabilities differ"):
        tuned_engine(version, Wishes(), MACHINE, None)


@pytest.mark.parametrize(
    ("quota", "cores"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None), ("", None)]
)
def test_a_containers_quota_limits_the_cores(tmp_path: Path, quota: str, cores: int | None) -> None:
    """A container with one core of many is a machine with one core."""
    (tmp_path / "cpu.max").write_text(quota)
    assert available_cores(tmp_path / "cpu.max") == (cores or available_cores(tmp_path / "none"))


async def test_the_choice_is_told(tmp_path: Path) -> None:
    """At /v1/engine with all candidates and refusals, and in the metrics."""
    graphs, right = {"fp32": graph(), "int8": graph(gain=2.0)}, {"fp32": graph(), "int8": graph()}
    registry = Registry(publish(tmp_path, graphs, right), "lesion7", Wishes(workers=1, threads_per_session=1))
    choice = registry.load("production").choice
    app = create_app(Settings(workers=1), registry)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        told = (await client.get("/v1/engine")).raise_for_status().json()
        lines = (await client.get("/metrics")).text.splitlines()
    assert (told["variant"], told["threads_per_session"], told["workers"]) == ("fp32", 1, 1)
    assert told["set_by_hand"] == ["threads_per_session", "workers"]
    assert "golden probabilities differ" in told["refused"]["int8"]
    assert {m["batch_size"]: m["inference_seconds"] for m in told["measured"]} == choice.inference_seconds
    assert told["processor"] == this_machine().processor
    shown = {line.split()[0]: float(line.split()[1]) for line in lines if line.startswith("dermserve_engine")}
    assert shown.pop('dermserve_engine_info{threads_per_session="1",variant="fp32",workers="1"}') == 1
    assert shown.pop("dermserve_engine_batching_gain") == choice.batching_gain
    assert shown.pop("dermserve_engine_pictures_per_second") == choice.pictures_per_second
    assert shown == {
        f'dermserve_engine_inference_seconds{{batch_size="{size}"}}': seconds
        for size, seconds in choice.inference_seconds.items()
    }


async def test_without_a_model_there_is_no_engine_to_tell_of() -> None:
    """503, as for a picture."""
    app = create_app(Settings(), Registry(ModelStore(SHIPPED), "lesion7"))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        response = await client.get("/v1/engine")
    assert (response.status_code, response.json()["code"]) == (503, "model_not_ready")


def test_a_service_remembers_where_it_is_told_to(tmp_path: Path) -> None:
    """The first start measures and says so in one line of the log; with everything by hand the choice is that."""
    store = publish(tmp_path / "store", {"fp32": graph()}).root
    options = ("--store", str(store), "--workers", "1", "--threads-per-session", "1", "--variant", "fp32")
    with running_service(tmp_path / "log", *options, "--engine-cache", str(tmp_path / "engine")) as service:
        told = httpx.get(f"{service.url}/v1/engine").json()
        (chosen,) = [
            line for line in map(json.loads, service.log.read_text().splitlines()) if line["event"] == "engine chosen"
        ]
    assert (told["set_by_hand"], told["cached"]) == (["variant", "threads_per_session", "workers"], False)
    assert (chosen["variant"], chosen["workers"], chosen["cached"]) == ("fp32", 1, False)
    assert (tmp_path / "engine").is_dir() == all(m["rounds"] == 3 for m in told["measured"])


def test_an_empty_setting_means_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default it is a folder of the user's cache."""
    for name, value in clean_environment(XDG_CACHE_HOME="caches").items():
        monkeypatch.setenv(name, value)
    assert Settings().engine_cache is not None
    monkeypatch.delenv("DERMSERVE_ENGINE_CACHE")
    assert Settings().engine_cache == Path("caches/dermserve/engine")
    monkeypatch.setenv("DERMSERVE_ENGINE_CACHE", "")
    assert Settings().engine_cache is None
