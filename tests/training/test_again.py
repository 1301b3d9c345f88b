"""A published version's network can be released again from the version alone."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from model_store.contract.golden import read_golden
from model_store.store import PRODUCTION, ModelStore, ModelVersion
from tests.training.conftest import SmokeChain
from training.__main__ import EXPECTED_FAILURE, main
from training.export import OnnxClassifier


def answers(version: ModelVersion, of: ModelVersion) -> dict[str, np.ndarray]:
    """What the fp32 graph says to another version's golden pictures."""
    pictures = read_golden(of.read(of.manifest.golden.file)).tensors
    return dict(OnnxClassifier(version.read("model.onnx"), threads=1).outputs(pictures))


def test_a_version_is_released_again_without_its_run(pupil_chain: SmokeChain, tmp_path: Path) -> None:
    """Same network, same figures, the records of all its runs; its own record names the command that made it."""
    store = ModelStore(shutil.copytree(pupil_chain.store, tmp_path / "store"))
    words = ("again", "--store", str(store.root), "--model", "smoke", PRODUCTION, "--data", str(tmp_path))
    assert main(words) == 0
    before, after = store.verify("smoke", "1"), store.verify("smoke", "2")
    assert store.resolve("smoke", PRODUCTION) == "1", "publishing promotes nothing"
    assert set(after.manifest.files) == set(before.manifest.files)
    records = [name for name in before.manifest.files if name.startswith(("start/", "teachers/"))]
    assert len(records) == 6
    for name in [*records, "log.csv", "config.toml", "split.csv.gz"]:
        assert after.read(name) == before.read(name), name
    then, now = (json.loads(version.read("run.json")) for version in (before, after))
    assert now["command"] == f"python -m training again --store store --model smoke 1 --data {tmp_path.name}"
    changing = {"command", "commit", "python", "packages"}
    assert {name: now[name] for name in now if name not in changing} == {
        name: then[name] for name in then if name not in changing
    }
    first, second = answers(before, before), answers(after, before)
    for name in first:
        assert np.allclose(first[name], second[name], atol=1e-4), name


def test_other_pictures_are_refused(
    smoke_chain: SmokeChain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the network has learnt from might be tested on."""
    store = ModelStore(shutil.copytree(smoke_chain.store, tmp_path / "store"))
    monkeypatch.setattr("training.provenance.data_digest", lambda loaded: "sha256:" + "0" * 64)
    words = ("again", "--store", str(store.root), "--model", "smoke", "1", "--data", str(tmp_path))
    assert main(words) == EXPECTED_FAILURE
    assert "other data" in capsys.readouterr().err
    assert store.versions("smoke") == ["1"]
