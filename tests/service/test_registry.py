"""The registry follows the store: what passes every check is put in place in one step, what does not is refused."""

import asyncio
import json
import logging
import os
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from model_store.errors import StoreUnavailableError
from model_store.signatures import TrustPolicy, key_id
from model_store.store import ModelStore, ModelVersion
from service import engine
from service.app import create_app
from service.choice import Wishes
from service.engine import SelfTestError
from service.errors import NotFoundError
from service.follower import Follower
from service.metrics import Metrics
from service.registry import Registry
from service.settings import Settings
from tests.conftest import encoded, lesion_picture
from tests.service.stand_ins import graph, publish

FIRST, SECOND, WRONG = graph(), graph(gain=0.5), graph(gain=2.0)
PICTURE = encoded(lesion_picture(200, 150))


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """Version 1 in production."""
    return publish(tmp_path / "store", {"fp32": FIRST})


@pytest.fixture
def registry(store: ModelStore) -> Registry:
    registry = Registry(store, "lesion7", Wishes(workers=1, max_batch_size=1))
    registry.load("production")
    return registry


class Following:
    """A follower that looks only when told to, and its metrics."""

    def __init__(self, registry: Registry, thread: ThreadPoolExecutor, *also_serve: str, alias: str = "production"):
        self.registry, self.metrics = registry, Metrics(1)
        self.follower = Follower(
            registry,
            self.metrics.versions,
            thread,
            alias=alias,
            also_serve=also_serve,
            shadow=True,
            poll_seconds=0,
        )

    async def look(self, *, anew: bool = False) -> None:
        await self.follower.refresh(anew=anew)

    @property
    def serving(self) -> str:
        return self.registry.current().manifest.version

    @property
    def roles(self) -> dict[str, str]:
        return {model.manifest.version: role for model, role in self.registry.lineup.roles.items()}

    @property
    def refused(self) -> dict[str, str]:
        return {version: refusal.reason for version, refusal in self.registry.lineup.refused.items()}

    def metric(self, metric: str, /, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(metric, labels) or 0.0


@pytest.fixture
async def thread() -> AsyncIterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as one:
        yield one


@pytest.fixture
async def following(registry: Registry, thread: ThreadPoolExecutor) -> Following:
    return Following(registry, thread)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_moved_alias_is_followed(following: Following, store: ModelStore) -> None:
    """The version that it names now serves, with the engine's threads as they are."""
    publish(store.root, {"fp32": SECOND})
    before = following.registry.current()
    await following.look()
    after = following.registry.current()
    assert after.manifest.version == "2"
    assert (after.choice.threads_per_session, after.choice.workers) == (
        before.choice.threads_per_session,
        before.choice.workers,
    )
    assert following.metric("dermserve_model_info", **after.identity.model_dump()) == 1
    assert following.metric("dermserve_model_load_seconds_count") == 1


async def test_looking_again_changes_nothing(following: Following, store: ModelStore) -> None:
    """Nothing is loaded twice."""
    publish(store.root, {"fp32": SECOND})
    await following.look()
    lineup = following.registry.lineup
    await following.look(anew=True)
    assert following.registry.lineup == lineup
    assert following.metric("dermserve_model_load_seconds_count") == 1


async def test_rollback_is_followed(following: Following, store: ModelStore) -> None:
    """Back to the version of before, whose choice of engine is still known."""
    first = following.registry.current().choice
    publish(store.root, {"fp32": SECOND})
    await following.look()
    store.rollback("lesion7")
    await following.look()
    assert following.serving == "1"
    assert following.registry.current().choice.inference_seconds == first.inference_seconds


async def test_a_rollback_makes_no_session(
    following: Following, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that is new here answers all golden pictures; the engine of the one before was kept as it was."""
    replayed: list[None] = []
    kept = following.registry.current().engine
    publish(store.root, {"fp32": SECOND})
    monkeypatch.setattr(engine, "_check_answers", lambda *_: replayed.append(None))
    await following.look()
    assert len(replayed) >= 3
    replayed.clear()
    store.rollback("lesion7")
    await following.look()
    assert following.serving == "1"
    assert following.registry.current().engine is kept
    assert not replayed


async def test_only_the_last_two_engines_are_kept(following: Following, store: ModelStore) -> None:
    """The one that serves and the one before it; the others leave memory."""
    engines = [weakref.ref(following.registry.current().engine)]
    for gain in (1.1, 1.2):
        publish(store.root, {"fp32": graph(gain=gain)})
        await following.look()
        engines.append(weakref.ref(following.registry.current().engine))
    await until(lambda: engines[0]() is None)
    assert all(engine() is not None for engine in engines[1:])


async def test_what_is_kept_for_a_way_back_goes_after_a_while(
    following: Following, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a way back is then a load like any other."""
    monkeypatch.setattr("service.follower.KEPT_SECONDS", 0.05)
    before = weakref.ref(following.registry.current().engine)
    publish(store.root, {"fp32": SECOND})
    await following.look()
    await until(lambda: before() is None)
    store.rollback("lesion7")
    await following.look()
    assert following.serving == "1"


async def test_a_lone_picture_gets_its_threads_after_the_swap(following: Following, store: ModelStore) -> None:
    """The new version serves without waiting for them."""
    before = following.registry.current()
    choice = replace(before.choice, threads_per_session=1, threads_alone=2)  # whatever was the best here
    following.registry.lineup = replace(following.registry.lineup, serving=replace(before, choice=choice))
    publish(store.root, {"fp32": SECOND})
    await following.look()
    after = following.registry.current()
    assert (after.manifest.version, after.engine.threads_alone) == ("2", 1)
    await until(lambda: after.engine.threads_alone == 2)


async def test_a_version_that_gets_no_more_threads_serves_on(
    following: Following, store: ModelStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong with the second session is told."""

    def fail(*_: Any) -> None:
        raise SelfTestError("no memory")

    monkeypatch.setattr(engine.Engine, "add_session_alone", fail)
    publish(store.root, {"fp32": SECOND})
    await following.look()
    with caplog.at_level(logging.WARNING):
        await until(lambda: "lone pictures get no more threads" in caplog.text)
    assert following.serving == "2"


async def test_the_old_version_goes_with_its_last_request(following: Following, store: ModelStore) -> None:
    """A request keeps the model that it was admitted for; when it has ended, the model leaves memory."""
    held = following.registry.current()
    publish(store.root, {"fp32": SECOND})
    await following.look()
    assert following.metric("dermserve_models_in_memory") == 2
    gone = weakref.ref(held)
    del held
    assert gone() is None
    await until(lambda: following.metric("dermserve_models_in_memory") == 1)


def damaged(store: ModelStore) -> None:
    publish(store.root, {"fp32": SECOND})
    file = store.root / "lesion7" / "2" / "fp32.onnx"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def unreadable(store: ModelStore) -> None:
    publish(store.root, {"fp32": SECOND})
    (store.root / "lesion7" / "2" / "manifest.json").write_text("{")


def unsafe(store: ModelStore) -> None:
    import onnx

    model = onnx.load_from_string(SECOND)
    model.opset_import.append(onnx.helper.make_opsetid("somebody", 1))
    model.graph.node[-1].domain = "somebody"
    publish(store.root, {"fp32": bytes(model.SerializeToString())}, {"fp32": SECOND})


def unproven(store: ModelStore) -> None:
    publish(store.root, {"fp32": WRONG}, {"fp32": SECOND})


def missing(store: ModelStore) -> None:
    aliases = store.root / "lesion7" / "aliases.json"
    aliases.write_text(json.dumps({"production": "7"}))


@pytest.mark.parametrize(
    ("spoil", "version", "reason"),
    [
        (damaged, "2", "damaged"),
        (unreadable, "2", "damaged"),
        (unsafe, "2", "unsafe_graph"),
        (unproven, "2", "self_test"),
        (missing, "7", "not_found"),
    ],
)
async def test_what_fails_a_check_is_refused(
    following: Following, store: ModelStore, spoil: Callable[[ModelStore], None], version: str, reason: str
) -> None:
    """With its reason; the old version goes on; it is not tried again before something changes or a reload."""
    spoil(store)
    for _ in range(3):
        await following.look()
    assert (following.serving, following.refused) == ("1", {version: reason})
    assert following.metric("dermserve_model_refusals_total", reason=reason) == 1
    assert str(store.root) not in following.registry.lineup.refused[version].detail
    await following.look(anew=True)
    assert following.metric("dermserve_model_refusals_total", reason=reason) == 2


def set_production(store: ModelStore, version: str) -> None:
    """By hand: `promote` would verify the version itself."""
    (store.root / "lesion7" / "aliases.json").write_text(json.dumps({"production": version}))


def flip_a_bit(folder: Path) -> None:
    """As a bad disk, or somebody who sets the time back afterwards: size and time of writing stay."""
    file = folder / "reference.json"
    before, data = file.stat(), bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_a_file(folder: Path) -> None:
    (folder / "new").write_bytes(b"{ }")
    (folder / "new").rename(folder / "reference.json")


def add_a_file(folder: Path) -> None:
    (folder / "more.txt").write_text("more")


def remove_a_file(folder: Path) -> None:
    (folder / "reference.json").unlink()


@pytest.mark.parametrize("touch", [flip_a_bit, replace_a_file, add_a_file, remove_a_file])
async def test_what_was_touched_since_it_served_is_refused(
    following: Following, store: ModelStore, touch: Callable[[Path], None]
) -> None:
    """Even in a file that is not needed to answer: what has passed all checks once has to pass them again."""
    publish(store.root, {"fp32": SECOND})
    await following.look()
    touch(store.root / "lesion7" / "1")
    set_production(store, "1")
    await following.look()
    assert (following.serving, following.refused) == ("2", {"1": "damaged"})


async def test_what_nobody_touched_is_not_read_again(
    following: Following, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There and back: each version is verified once, and answers as before."""
    verified: list[str] = []
    verify = ModelStore.verify

    def counted(self: ModelStore, name: str, version: str, *more: Any) -> ModelVersion:
        verified.append(version)
        return verify(self, name, version, *more)

    monkeypatch.setattr(ModelStore, "verify", counted)
    publish(store.root, {"fp32": SECOND})
    verified.clear()
    for version in "2121":
        set_production(store, version)
        await following.look()
        assert following.serving == version
    assert verified == ["2"]  # and 1 at start


async def test_a_failure_that_nobody_foresaw_is_a_refusal(
    following: Following, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a library raises: the old version goes on, and the reason says no more than its kind."""

    def fail(*_: Any, **__: Any) -> Any:
        raise MemoryError("of patient Roe")

    monkeypatch.setattr("service.loading.engine_beside", fail)
    publish(store.root, {"fp32": SECOND})
    await following.look()
    assert (following.serving, following.refused) == ("1", {"2": "load_failed"})
    assert following.registry.lineup.refused["2"].detail == "MemoryError while it was loaded"


async def test_a_repaired_version_is_tried_again(following: Following, store: ModelStore) -> None:
    """Its digest is another one, so nobody needs to ask for it."""
    publish(store.root, {"fp32": SECOND})
    manifest = store.root / "lesion7" / "2" / "manifest.json"
    right = manifest.read_bytes()
    manifest.write_text("{")
    await following.look()
    manifest.write_bytes(right)
    await following.look()
    assert (following.serving, following.refused) == ("2", {})


async def test_a_refused_version_that_nobody_wants_is_forgotten(following: Following, store: ModelStore) -> None:
    """The alias went back: there is nothing to report any more."""
    damaged(store)
    await following.look()
    (store.root / "lesion7" / "aliases.json").write_text('{"production": "1"}')
    await following.look()
    assert (following.serving, following.refused) == ("1", {})


async def test_only_trusted_versions_serve_where_signatures_are_asked_for(
    store: ModelStore, thread: ThreadPoolExecutor
) -> None:
    """An unsigned one is refused; signed since, it serves after a reload."""
    key = Ed25519PrivateKey.generate()
    policy = TrustPolicy(require_signature=True, trusted_keys={key_id(key.public_key()): key.public_key()})
    store.sign("lesion7", "1", key)
    registry = Registry(store, "lesion7", Wishes(workers=1, max_batch_size=1), policy=policy)
    registry.load("production")
    following = Following(registry, thread)
    publish(store.root, {"fp32": SECOND})
    await following.look()
    assert (following.serving, following.refused) == ("1", {"2": "untrusted"})
    store.sign("lesion7", "2", key)
    await following.look(anew=True)
    assert following.serving == "2"


async def test_a_store_that_does_not_answer_changes_nothing(
    following: Following, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is loaded goes on, the trouble is told with its beginning, and ends by itself."""
    publish(store.root, {"fp32": SECOND})
    root = store.root / "lesion7"
    root.rename(store.root / "away")
    await following.look()
    trouble = following.follower.store_trouble
    await following.look()
    assert trouble is not None
    assert following.follower.store_trouble == trouble
    assert (following.serving, following.metric("dermserve_store_reachable")) == ("1", 0)
    (store.root / "away").rename(root)
    await following.look()
    assert following.follower.store_trouble is None
    assert (following.serving, following.metric("dermserve_store_reachable")) == ("2", 1)


async def test_a_store_that_breaks_off_is_no_fault_of_the_version(
    following: Following, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version is not refused, and loaded when the store gives its files again."""
    publish(store.root, {"fp32": SECOND})

    def cut(*_: Any) -> Any:
        raise StoreUnavailableError("the network is cut")

    with monkeypatch.context() as patched:
        patched.setattr(store, "verify", cut)
        await following.look()
    assert (following.serving, following.refused) == ("1", {})
    assert following.follower.store_trouble is not None
    await following.look()
    assert following.serving == "2"


async def test_others_are_loaded_beside(registry: Registry, store: ModelStore, thread: ThreadPoolExecutor) -> None:
    """By number and by alias, each once; dropped when their alias leaves them; the serving one is never one of them."""
    publish(store.root, {"fp32": SECOND})
    publish(store.root, {"fp32": graph(gain=0.25)}, alias=None)
    following = Following(registry, thread, "previous", "3")
    await following.look()
    assert following.roles == {"2": "serving", "1": "loaded", "3": "loaded"}
    assert registry.current("1").manifest.version == registry.current("previous").manifest.version == "1"
    store.rollback("lesion7")
    await following.look()
    assert following.roles == {"1": "serving", "2": "loaded", "3": "loaded"}
    assert following.metric("dermserve_model_load_seconds_count") == 2
    with pytest.raises(NotFoundError, match=r"loaded are 1 \(serving\), 2 \(loaded\), 3 \(loaded\)"):
        registry.current("4")


async def test_a_promoted_candidate_serves_at_once(following: Following, store: ModelStore) -> None:
    """It has passed every check in the shadow: nothing is loaded anew."""
    publish(store.root, {"fp32": SECOND}, alias="candidate")
    await following.look()
    assert following.roles == {"1": "serving", "2": "shadow"}
    candidate = following.registry.lineup.shadow
    store.promote("lesion7", "2")
    await following.look()
    assert following.roles == {"2": "serving"}
    assert following.registry.current() is candidate


async def test_a_refused_candidate_costs_nobody_anything(following: Following, store: ModelStore) -> None:
    """There is no shadow then."""
    publish(store.root, {"fp32": WRONG}, {"fp32": SECOND}, alias="candidate")
    await following.look()
    assert (following.roles, following.refused) == ({"1": "serving"}, {"2": "self_test"})


async def test_another_variant_serves_where_the_running_one_fails(
    store: ModelStore, thread: ThreadPoolExecutor
) -> None:
    """As at start: what is wrong here is not trusted, and what is right serves."""
    publish(store.root, {"fp32": graph(slow=True), "int8": FIRST})
    registry = Registry(store, "lesion7", Wishes(workers=1, max_batch_size=1))
    assert registry.load("production").engine.variant == "int8"
    following = Following(registry, thread)
    publish(store.root, {"fp32": SECOND, "int8": WRONG}, {"fp32": SECOND, "int8": SECOND})
    await following.look()
    assert (following.serving, registry.current().engine.variant) == ("3", "fp32")
    assert "int8" in registry.current().choice.refused


async def test_a_version_whose_fp32_is_wrong_never_serves(store: ModelStore, thread: ThreadPoolExecutor) -> None:
    """Though its int8 is right: the version's figures are of fp32. Neither while another serves nor at start."""
    publish(store.root, {"fp32": graph(slow=True), "int8": FIRST})
    registry = Registry(store, "lesion7", Wishes(workers=1, max_batch_size=1))
    assert registry.load("production").engine.variant == "int8"
    following = Following(registry, thread)
    publish(store.root, {"fp32": WRONG, "int8": SECOND}, {"fp32": SECOND, "int8": SECOND})
    await following.look()
    assert (following.serving, following.refused) == ("2", {"3": "self_test"})
    with pytest.raises(SelfTestError, match="fp32: golden probabilities differ"):
        registry.load("production")


async def test_a_variant_by_hand_is_the_only_one(store: ModelStore, thread: ThreadPoolExecutor) -> None:
    """A version without it, or whose one is wrong, does not serve."""
    registry = Registry(store, "lesion7", Wishes("fp32", workers=1, max_batch_size=1))
    registry.load("production")
    following = Following(registry, thread)
    publish(store.root, {"fp32": WRONG, "int8": SECOND}, {"fp32": SECOND, "int8": SECOND})
    await following.look()
    assert (following.serving, following.refused) == ("1", {"2": "self_test"})


@pytest.fixture
async def client(registry: Registry) -> AsyncIterator[httpx.AsyncClient]:
    """The whole application, which also serves `previous`."""
    app = create_app(Settings(store_poll_seconds=0, also_serve=("previous",), shadow_share=1.0), registry)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as connected,
    ):
        connected.follower = app.state.services.follower  # type: ignore[attr-defined]
        yield connected


async def test_the_list_tells_what_each_version_does(client: httpx.AsyncClient, store: ModelStore) -> None:
    """Serving, loaded, shadow, refused with its reason, available; and the aliases."""
    publish(store.root, {"fp32": SECOND})
    publish(store.root, {"fp32": FIRST}, alias="candidate")
    publish(store.root, {"fp32": FIRST}, alias=None)
    await client.follower.refresh()  # type: ignore[attr-defined]
    listed = (await client.get("/v1/models")).json()
    assert {m["version"]: (m["status"], m["aliases"]) for m in listed["models"]} == {
        "4": ("available", []),
        "3": ("shadow", ["candidate"]),
        "2": ("serving", ["production"]),
        "1": ("loaded", ["previous"]),
    }
    assert listed["refused"] == []
    publish(store.root, {"fp32": WRONG}, {"fp32": SECOND})
    await client.follower.refresh()  # type: ignore[attr-defined]
    listed = (await client.get("/v1/models")).json()
    assert [m["status"] for m in listed["models"] if m["version"] == "5"] == ["refused"]
    assert [(r["version"], r["reason"]) for r in listed["refused"]] == [("5", "self_test")]
    assert "golden probabilities differ" in listed["refused"][0]["detail"]
    assert (await client.get("/v1/models/5")).json()["status"] == "refused"


async def test_a_request_may_name_a_loaded_version(client: httpx.AsyncClient, store: ModelStore) -> None:
    """By number or alias: answered by it, with the same parameters; 404 for one that is not loaded says which are."""
    publish(store.root, {"fp32": SECOND})
    await client.follower.refresh()  # type: ignore[attr-defined]
    for name, version in (("1", "1"), ("previous", "1"), ("2", "2"), ("production", "2")):
        answer = await client.post(f"/v1/models/{name}/predictions", params={"explain": "first"}, content=PICTURE)
        assert answer.raise_for_status().json()["model"]["version"] == version
        assert answer.json()["explanation"]
    usual, named = [
        (await client.post(url, content=PICTURE)).json()["probabilities"]
        for url in ("/v1/predictions", "/v1/models/2/predictions")
    ]
    assert usual == named
    absent = await client.post("/v1/models/9/predictions", content=PICTURE)
    assert (absent.status_code, absent.json()["code"]) == (404, "not_found")
    assert "loaded are 1 (loaded), 2 (serving)" in absent.json()["detail"]
    metrics = (await client.get("/metrics")).text
    route = 'route="/v1/models/{version}/predictions"'
    assert f'dermserve_requests_total{{method="POST",{route},status="404"}} 1.0' in metrics
    assert "/v1/models/9" not in metrics


async def test_a_version_that_is_swapped_out_leaves_memory(client: httpx.AsyncClient, store: ModelStore) -> None:
    """Nothing in the whole application holds on to it, the first one included."""
    for _ in range(3):
        publish(store.root, {"fp32": SECOND})
        await client.follower.refresh()  # type: ignore[attr-defined]
        assert (await client.post("/v1/predictions", content=PICTURE)).status_code == 200
    async with asyncio.timeout(60):
        while "dermserve_models_in_memory 2.0\n" not in (await client.get("/metrics")).text:  # serving and `previous`
            await asyncio.sleep(0.01)


async def test_an_unreachable_store_is_told_and_no_reason_to_be_unready(
    client: httpx.AsyncClient, store: ModelStore
) -> None:
    """/readyz stays 200, with the detail; predictions go on."""
    (store.root / "lesion7").rename(store.root / "away")
    await client.follower.refresh()  # type: ignore[attr-defined]
    ready = await client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["store"].startswith("unreachable since 2")
    assert (await client.post("/v1/predictions", content=PICTURE)).status_code == 200


async def test_an_answer_names_every_bit(client: httpx.AsyncClient, registry: Registry) -> None:
    """Its probabilities are the network's float32 exactly, so that an answer can be repeated bit for bit."""
    import numpy as np

    from model_store.contract.golden import preprocess_encoded

    answer = (await client.post("/v1/predictions", content=PICTURE)).json()
    model = registry.current()
    computed = model.engine.infer(preprocess_encoded(PICTURE, model.manifest.preprocessing)[None]).probabilities[0]
    assert np.array_equal(np.array(list(answer["probabilities"].values()), np.float32), computed)
