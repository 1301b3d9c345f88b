"""A variant serves only when it answers as it was published, and its answers do not depend on its threads."""

import json
import logging
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from model_store.store import PRODUCTION, SHIPPED, ModelStore
from service.choice import Wishes
from service.engine import Engine, NetworkOutput, SelfTestError
from service.registry import Registry
from service.tuning import measured_choice
from tests.service.stand_ins import SIDE, graph, publish

PLAIN, QUANTISED, WRONG = graph(), graph(gain=1.05), graph(gain=2.0)


def loaded(store: ModelStore, variant: str) -> Engine:
    """As the service loads it, on one core."""
    version = store.verify("lesion7", "production")
    return Engine(version, measured_choice(version, Wishes(variant), cores=1).variant)


def test_every_output_has_a_row_for_each_picture(tmp_path: Path) -> None:
    """Probabilities, class maps and score come back per picture, as the graph gives them."""
    engine = loaded(publish(tmp_path, {"fp32": PLAIN}), "auto")
    images = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
    output = engine.infer(images)
    first, *_ = rows = output.rows()
    assert len(rows) == 3
    assert (first.probabilities.shape, first.class_maps.shape) == ((7,), (7, 2, 2))
    assert first.in_distribution == pytest.approx(images[0].mean() / 255, abs=1e-4)
    logits = first.class_maps.mean(axis=(1, 2))
    assert np.allclose(np.exp(logits) / np.exp(logits).sum(), first.probabilities, atol=1e-6)


def test_outputs_of_different_lengths_have_no_rows() -> None:
    """A network that answers for fewer pictures in one output gives nobody another's."""
    with pytest.raises(ValueError, match="shorter"):
        NetworkOutput(np.zeros((3, 7)), np.zeros((3, 7, 2, 2)), np.zeros(2)).rows()


@pytest.mark.parametrize(("threads", "workers"), [(1, 1), (1, 3), (2, 1), (2, 3)])
def test_threads_and_workers_change_no_answer(tmp_path: Path, threads: int, workers: int) -> None:
    """Many callers at once, more than there are sessions: each gets the answers to its own pictures."""
    engine = Engine(publish(tmp_path, {"fp32": PLAIN}).verify("lesion7", "production"), "fp32", threads, workers)
    batches = np.random.default_rng(0).integers(0, 256, (40, 2, SIDE, SIDE, 3), np.uint8)
    with ThreadPoolExecutor(8) as callers:
        outputs = list(callers.map(engine.infer, batches))
    for images, output in zip(batches, outputs, strict=True):
        assert np.allclose(output.in_distribution, images.mean(axis=(1, 2, 3)) / 255, atol=1e-4)


def test_a_lone_picture_gets_more_threads_and_the_same_bits(tmp_path: Path) -> None:
    """Whoever says that there is no other work is answered by a session of its own."""
    version = publish(tmp_path, {"fp32": graph(slow=True)}).verify("lesion7", "production")
    engine = Engine(version, "fp32")
    assert (engine.threads_per_session, engine.threads_alone) == (1, 1)
    engine.add_session_alone(version, 2)
    assert (engine.threads_per_session, engine.threads_alone) == (1, 2)
    images = np.random.default_rng(0).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8)
    assert engine.infer(images, alone=True).equals(engine.infer(images))


def test_more_threads_that_change_an_answer_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer does not depend on how busy the service was."""
    monkeypatch.setattr(NetworkOutput, "equals", lambda *_: False)
    version = publish(tmp_path, {"fp32": PLAIN}).verify("lesion7", "production")
    engine = Engine(version, "fp32")
    engine.add_session_alone(version, 2)
    assert engine.threads_alone == 1


@pytest.mark.skipif(sys.platform != "linux", reason="page faults of one thread are counted on Linux only")
def test_a_fresh_engine_computes_in_memory_that_is_there() -> None:
    """After a swap nobody waits for pages; and what a large batch has taken is given back on request."""
    shipped = ModelStore(SHIPPED).open("lesion7", PRODUCTION)
    images = np.zeros((8, 224, 224, 3), np.uint8)
    before, after = Engine(shipped, "fp32"), Engine(shipped, "fp32")
    before.shrink()
    taken = pages_taken(lambda: before.infer(images))
    assert taken > 10_000
    assert pages_taken(lambda: after.infer(images)) < taken / 10
    after.shrink()
    assert pages_taken(lambda: after.infer(images)) > taken / 2


def pages_taken(work: Callable[[], object]) -> int:
    """That the system had to give this thread."""
    start = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - start


@pytest.mark.parametrize("output", ["probabilities", "class_maps", "in_distribution"])
def test_outputs_are_equal_when_every_bit_is(output: str) -> None:
    """The last bit of any output makes them differ."""
    one, other = (NetworkOutput(np.ones((1, 7)), np.ones((1, 7, 2, 2)), np.ones(1)) for _ in range(2))
    assert one.equals(other)
    vars(other)[output].flat[0] = np.nextafter(1.0, 2.0)
    assert not one.equals(other)


def test_a_session_that_fails_is_free_for_the_next_caller(tmp_path: Path) -> None:
    """Pictures that the graph refuses cost no session."""
    engine = Engine(publish(tmp_path, {"fp32": PLAIN}).verify("lesion7", "production"), "fp32", 2, 1)
    for _ in range(2):
        with pytest.raises(Exception, match="image"):
            engine.infer(np.zeros((1, SIDE, SIDE + 1, 3), np.uint8))
    assert len(engine.infer(np.zeros((1, SIDE, SIDE, 3), np.uint8)).rows()) == 1


@pytest.mark.parametrize(
    ("variant", "graphs", "serves"),
    [
        ("auto", {"fp32": graph(slow=True), "int8": QUANTISED}, "int8"),
        ("auto", {"fp32": PLAIN, "int8": graph(gain=1.05, slow=True)}, "fp32"),
        ("auto", {"fp32": PLAIN}, "fp32"),
        ("fp32", {"fp32": graph(slow=True), "int8": QUANTISED}, "fp32"),
        ("int8", {"fp32": PLAIN, "int8": graph(gain=1.05, slow=True)}, "int8"),
    ],
    ids=["int8 is faster", "fp32 is faster", "no int8", "fp32 by hand", "int8 by hand"],
)
def test_the_fastest_variant_or_the_one_that_is_asked_for_serves(
    tmp_path: Path, variant: str, graphs: dict[str, bytes], serves: str
) -> None:
    """`auto` measures; a named one is taken, slow or not."""
    assert loaded(publish(tmp_path, graphs), variant).variant == serves


def test_int8_that_answers_differently_is_refused_and_fp32_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On a processor that computes int8 otherwise, `auto` takes fp32 and says so in the log."""
    store = publish(tmp_path, {"fp32": PLAIN, "int8": WRONG}, {"fp32": PLAIN, "int8": QUANTISED})
    registry = Registry(store, "lesion7")
    with caplog.at_level(logging.WARNING):
        assert registry.load("production").identity.variant == "fp32"
    (record,) = caplog.records
    assert record.getMessage() == "int8 refused, fp32 serves"
    assert "lesion7 1 int8: golden probabilities differ" in json.dumps(record.fields)
    assert set(registry.current().choice.refused) == {"int8"}
    assert {m.variant for m in registry.current().choice.measured} == {"fp32"}


def test_a_named_variant_that_answers_differently_is_a_load_error(tmp_path: Path) -> None:
    """Whoever asks for int8 gets int8 or no start."""
    store = publish(tmp_path, {"fp32": PLAIN, "int8": WRONG}, {"fp32": PLAIN, "int8": QUANTISED})
    with pytest.raises(SelfTestError, match="int8: golden probabilities differ"):
        loaded(store, "int8")


def test_no_wrong_fp32_ever_serves(tmp_path: Path) -> None:
    """There is nothing to fall back to."""
    store = publish(tmp_path, {"fp32": WRONG}, {"fp32": PLAIN})
    with pytest.raises(SelfTestError, match="fp32: golden probabilities differ"):
        loaded(store, "auto")


def test_a_variant_that_is_not_there_is_a_load_error(tmp_path: Path) -> None:
    """It is named."""
    with pytest.raises(SelfTestError, match="has no variant int8"):
        loaded(publish(tmp_path, {"fp32": PLAIN}), "int8")


def test_a_graph_with_other_outputs_is_a_load_error(tmp_path: Path) -> None:
    """The manifest's names and shapes are checked before anything is computed."""
    store = publish(tmp_path, {"fp32": PLAIN})
    version = store.verify("lesion7", "1")
    wrong = version.manifest.model_copy(
        update={"graph": version.manifest.graph.model_copy(update={"class_maps": "probabilities"})}
    )
    with pytest.raises(SelfTestError, match="the manifest says otherwise"):
        Engine(type(version)(wrong, version.digest, version.folder), "fp32")
