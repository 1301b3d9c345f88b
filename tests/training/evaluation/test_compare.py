"""Two versions are compared on pictures that neither has seen; the gallery shows the worst and stays out of git."""

import gzip
import json
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_store.store import ModelStore
from tests.training.builders import RULES, predictions
from tests.training.tiny_graph import colour_weights, tiny_graph
from training.__main__ import EXPECTED_FAILURE, main
from training.data import CLASSES
from training.errors import CompareError, GalleryError
from training.evaluation.compare import compare_versions, open_side, paired
from training.evaluation.gallery import INDEX, write_gallery
from training.evaluation.tables import Predictions, Resampling
from training.export import OUTPUTS

SMOKE = Path(__file__).parents[3] / "training" / "configs" / "smoke.toml"
PICTURES = 24


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reddish melanomas and greenish nevi; every fourth has the other's colour."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    (folder / "images").mkdir()
    lines = ["image_id,dx"]
    for index in range(PICTURES):
        red = (index % 2 == 0) != (index % 8 == 0)
        colour = (170, 110, 60) if red else (110, 170, 60)
        pixels = np.clip(random.normal(colour, 12, (48, 64, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"p{index}.png")
        lines.append(f"p{index},{'mel' if index % 2 == 0 else 'nv'}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """Version 1 with an int8 variant that answers less surely, version 2 that is the other way round, version 3 that
    was trained on what the others were tested on.
    """
    store = ModelStore(tmp_path / "store")
    good, weak = tiny_graph(colour_weights()), tiny_graph(colour_weights(2.0))
    _publish(store, {"fp32": good, "int8": weak}, test=range(20))
    _publish(store, {"fp32": tiny_graph(-colour_weights())}, test=range(8, PICTURES))
    _publish(store, {"fp32": good}, test=range(20, PICTURES))
    return store


def test_only_pictures_unseen_by_both_count(store: ModelStore, data: Path) -> None:
    """The intersection of both test parts: 12 pictures; the better version is better, beyond chance."""
    found = compare_versions(store, "tiny", ["2", "1"], data)
    assert found["versions"] == ["2:fp32", "1:fp32"]
    mix = found["mixes"]["all"]
    assert mix["pictures"] == 12
    accuracy = mix["figures"]["balanced_accuracy"]
    assert accuracy["a"]["value"] < accuracy["b"]["value"]
    expected = accuracy["b"]["value"] - accuracy["a"]["value"]
    assert accuracy["difference"]["value"] == pytest.approx(expected, abs=1e-4)
    assert accuracy["difference"]["low"] > 0


def test_no_common_test_picture_is_refused(store: ModelStore, data: Path) -> None:
    """What one of them was trained on proves nothing."""
    with pytest.raises(CompareError, match="no picture is in the test part of both 1:fp32 and 3:fp32"):
        compare_versions(store, "tiny", ["1", "3"], data)


def test_variants_of_one_version(store: ModelStore, data: Path) -> None:
    """1:fp32 and 1:int8 share a test part; a variant that is not there is named."""
    found = compare_versions(store, "tiny", ["1:fp32", "1:int8"], data)
    assert found["mixes"]["all"]["pictures"] == 20
    assert found["mixes"]["all"]["largest_probability_change"]["p50"] > 0.05
    with pytest.raises(CompareError, match="version 2 has no variant 'int8': it has fp32"):
        open_side(store, "tiny", "2:int8")


def test_paired_interval_is_narrower_than_two_apart() -> None:
    """Answers that are right on the same pictures: their difference is surer than the figures themselves."""
    a = predictions(400)
    b = Predictions(a.pictures, a.probabilities * 0.98 + 0.02 / 7)
    figure = paired(a, b, (0.3, 0.3), Resampling(0, 200))["figures"]["malignant_auroc"]
    width = {name: of["high"] - of["low"] for name, of in figure.items()}
    assert width["difference"] < width["a"] / 5


def test_command_prints_tables_or_json(store: ModelStore, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m training compare`: a table with marks, JSON with --json, one line for an expected failure."""
    words = ("--store", str(store.root), "--model", "tiny", "--data", str(data))
    assert main(("compare", "2", "1", *words)) == 0
    printed = capsys.readouterr().out
    assert "balanced accuracy" in printed
    assert " *" in printed
    assert main(("compare", "1", "1:int8", "--json", *words)) == 0
    assert json.loads(capsys.readouterr().out)["versions"] == ["1:fp32", "1:int8"]
    assert main(("compare", "1", "3", *words)) == EXPECTED_FAILURE
    assert capsys.readouterr().err.startswith("error: no picture is in the test part of both")


def test_gallery_shows_the_missed_first(store: ModelStore, data: Path, tmp_path: Path) -> None:
    """Sheets and an index that says what it shows; greenish melanomas are the missed ones."""
    index = write_gallery(store, "tiny", "1", data, tmp_path / "gallery", most=10)
    page = index.read_text()
    assert "Shows patients' pictures" in page
    assert page.index("missed-1.png") < page.index("wrong-1.png")
    missed = page[page.index("below the threshold") : page.index("flagged as malignant")]
    assert set(re.findall(r"<td>(p\d+)</td>", missed)) == {"p0", "p8", "p16"}
    with Image.open(tmp_path / "gallery" / "missed-1.png") as sheet:
        assert sheet.width == 1200


def test_gallery_refuses_a_repository(store: ModelStore, data: Path, tmp_path: Path) -> None:
    """Inside a repository only a folder that git ignores will do."""
    repository = tmp_path / "clone"
    repository.mkdir()
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    with pytest.raises(GalleryError, match="must not be committed"):
        write_gallery(store, "tiny", "1", data, repository / "errors", most=5)
    assert not (repository / "errors").exists()
    (repository / ".gitignore").write_text("errors/\n")
    assert write_gallery(store, "tiny", "1", data, repository / "errors", most=5).name == INDEX


def test_gallery_does_not_mix_with_other_files(store: ModelStore, data: Path, tmp_path: Path) -> None:
    """A folder that holds something else is left alone."""
    (tmp_path / "thesis.txt").write_text("work of years")
    with pytest.raises(GalleryError, match="holds something that is no gallery"):
        write_gallery(store, "tiny", "1", data, tmp_path, most=5)


def _publish(store: ModelStore, graphs: dict[str, bytes], test: range) -> None:
    split = ["collection,image_id,lesion_id,dx,part"]
    split += [f"generated,p{i},generated/p{i},mel,{'test' if i in test else 'train'}" for i in range(PICTURES)]
    files = {f"{name}.onnx": graph for name, graph in graphs.items()}
    files |= {
        "golden.npz": b"-",
        "reference.json": b"{}",
        "config.toml": SMOKE.read_bytes(),
        "split.csv.gz": gzip.compress("\n".join(split).encode()),
    }
    share, no_loss = dict.fromkeys(CLASSES, 1 / 7), {"probability_shift_p99": 0, "balanced_accuracy_loss": 0}
    store.publish(
        files,
        {
            "name": "tiny",
            "created_at": datetime.now(UTC),
            "licence": "-",
            "classes": CLASSES,
            "graph": {"input": "image"} | {name: name for name in OUTPUTS},
            "variants": {name: no_loss | {"file": f"{name}.onnx"} for name in graphs},
            "preprocessing": {"height": 64, "width": 64, "resize": "squash", "reduced_decode_factor": 2},
            "calibration": {"temperature": 1, "prior_share": 1, "prior": share, "reference_prevalence": 0.2},
            "malignancy": {
                "threshold": RULES.threshold,
                "target_sensitivity": 0.95,
                "sensitivity": 0.9,
                "specificity": 0.9,
            },
            "certainty": RULES.certainty,
            "in_distribution": RULES.in_distribution,
            "quality": RULES.quality,
            "reference": {"file": "reference.json"},
            "golden": {"file": "golden.npz", "tolerance": dict.fromkeys(graphs, 0.01)},
            "provenance": {
                "commit": "-",
                "config_digest": "sha256:" + "0" * 64,
                "data_digest": "sha256:" + "0" * 64,
                "split_digest": "sha256:" + "0" * 64,
                "seed": 1,
                "packages": {},
            },
        },
    )
