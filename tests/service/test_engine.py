"""A variant serves only when it answers as it was published, and `auto` takes the fast one that does."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from model_store.store import ModelStore
from service.engine import Engine, NetworkOutput, SelfTestError, load_engine
from service.registry import Registry
from tests.service.stand_ins import SIDE, graph, publish

PLAIN, QUANTISED, WRONG = graph(), graph(gain=1.05), graph(gain=2.0)


def loaded(store: ModelStore, choice: str) -> Engine:
    return load_engine(store.verify("lesion7", "production"), choice)


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


@pytest.mark.parametrize(
    ("choice", "variants", "serves"),
    [
        ("auto", ("fp32", "int8"), "int8"),
        ("auto", ("fp32",), "fp32"),
        ("fp32", ("fp32", "int8"), "fp32"),
        ("int8", ("fp32", "int8"), "int8"),
    ],
)
def test_the_variant_that_is_asked_for_serves(
    tmp_path: Path, choice: str, variants: tuple[str, ...], serves: str
) -> None:
    """`auto` prefers int8; a named one is taken; the answers are those of its own graph."""
    store = publish(tmp_path, {v: {"fp32": PLAIN, "int8": QUANTISED}[v] for v in variants})
    engine = loaded(store, choice)
    assert engine.variant == serves
    images = np.full((1, SIDE, SIDE, 3), 200, np.uint8)
    plain = loaded(store, "fp32").infer(images).probabilities
    assert np.array_equal(engine.infer(images).probabilities, plain) == (serves == "fp32")


def test_int8_that_answers_differently_is_refused_and_fp32_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On a processor that computes int8 otherwise, `auto` takes fp32 and says so in the log."""
    store = publish(tmp_path, {"fp32": PLAIN, "int8": WRONG}, {"fp32": PLAIN, "int8": QUANTISED})
    registry = Registry(store, "lesion7", "auto")
    with caplog.at_level(logging.WARNING):
        assert registry.load("production").identity.variant == "fp32"
    (record,) = caplog.records
    assert record.getMessage() == "int8 refused, fp32 serves"
    assert "lesion7 1 int8: golden probabilities differ" in json.dumps(record.fields)


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
