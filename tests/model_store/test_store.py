"""The model store keeps whole, unchanged versions, whatever happens around it."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from model_store.contract.manifest import MANIFEST
from model_store.errors import AliasError, DamagedVersionError, InvalidManifestError, NotInStoreError
from model_store.store import SHIPPED, ModelStore

FILES = {
    "model.onnx": b"graph",
    "model.int8.onnx": b"smaller graph",
    "golden.npz": b"vectors",
    "reference.json": b"{}",
    "plots/roc.png": b"picture",
}
OUTPUTS = ("probabilities", "class_maps", "embedding", "in_distribution")
FP32 = {"file": "model.onnx", "probability_shift_p99": 0.0, "balanced_accuracy_loss": 0.0}
INT8 = {"file": "model.int8.onnx", "probability_shift_p99": 0.05, "balanced_accuracy_loss": -0.002}


def fields(**changes: Any) -> dict[str, Any]:
    """Manifest fields as a publisher gives them."""
    digest = "sha256:" + "0" * 64
    return {
        "name": "lesion7",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "licence": "CC BY-NC 4.0",
        "classes": ("mel", "nv"),
        "graph": {"input": "image", **{name: name for name in OUTPUTS}},
        "variants": {"fp32": FP32, "int8": INT8},
        "preprocessing": {"height": 64, "width": 64, "resize": "squash", "reduced_decode_factor": 2},
        "calibration": {
            "temperature": 1.0,
            "prior_share": 0.5,
            "prior": {"mel": 0.2, "nv": 0.8},
            "reference_prevalence": 0.2,
        },
        "malignancy": {"threshold": 0.2, "target_sensitivity": 0.95, "sensitivity": 0.94, "specificity": 0.7},
        "certainty": {"measure": "margin", "threshold": 0.3, "coverage": 0.8},
        "in_distribution": {"refuse_below": 0.1, "warn_below": 0.4},
        "quality": {
            "min_side_pixels": 100,
            "sharpness_min": 0.5,
            "brightness_min": 0.1,
            "brightness_max": 0.9,
            "dark_share_max": 0.5,
            "bright_share_max": 0.5,
            "contrast_min": 0.02,
        },
        "reference": {"file": "reference.json"},
        "golden": {"file": "golden.npz", "tolerance": {"fp32": 0.001, "int8": 0.03}},
        "provenance": {
            "commit": "abc",
            "config_digest": digest,
            "data_digest": digest,
            "split_digest": digest,
            "seed": 1,
            "packages": {},
        },
        **changes,
    }


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store")


def test_publish_numbers_versions_from_one(store: ModelStore) -> None:
    """Each publish makes the next version."""
    published = [store.publish(FILES, fields()).manifest.version for _ in range(3)]
    assert published == store.versions("lesion7") == ["1", "2", "3"]


def test_files_come_back_as_published(store: ModelStore) -> None:
    """What is read is what was published, sub-folders included."""
    store.publish(FILES, fields())
    opened = store.verify("lesion7", "1")
    assert {name: opened.read(name) for name in FILES} == FILES


def test_digest_covers_every_file(store: ModelStore) -> None:
    """Two versions that differ in one file's content have different digests."""
    first = store.publish(FILES, fields())
    second = store.publish({**FILES, "plots/roc.png": b"other"}, fields())
    assert first.manifest.files != second.manifest.files
    assert first.digest != second.digest


@pytest.mark.parametrize("damage", ["change", "truncate", "remove", "add", "manifest", "not json", "schema"])
def test_any_damage_is_found(store: ModelStore, damage: str) -> None:
    """A file that is changed, cut, gone, added, or a wrong manifest: verify refuses the version."""
    folder = store.publish(FILES, fields()).folder
    file, manifest = folder / "model.onnx", folder / MANIFEST
    match damage:
        case "change":
            file.write_bytes(b"grapH")
        case "truncate":
            file.write_bytes(b"gra")
        case "remove":
            file.unlink()
        case "add":
            (folder / "extra.txt").write_text("?")
        case "manifest":
            manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": "7"}))
        case "not json":
            manifest.write_text("{")
        case "schema":
            manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema_version": 99}))
    with pytest.raises(DamagedVersionError):
        store.verify("lesion7", "1")


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": ("mel", "unheard-of")},
        {"classes": ("mel", "mel")},
        {"malignancy": fields()["malignancy"] | {"threshold": float("nan")}},
        {"variants": {"fp32": FP32 | {"file": "other.onnx"}, "int8": INT8}},
        {"variants": {"fp32": FP32, "int8": INT8 | {"file": "model.onnx"}}},
        {"variants": {"int8": INT8}},
        {"variants": {"fp32": FP32 | {"balanced_accuracy_loss": 0.1}, "int8": INT8}},
        {"variants": {"fp32": FP32}},  # the golden vectors' tolerance names int8 too
        {"in_distribution": {"refuse_below": 0.4, "warn_below": 0.1}},
        {"reference": {"file": "elsewhere.json"}},
        {"unknown": 1},
    ],
)
def test_an_invalid_version_is_never_visible(store: ModelStore, wrong: dict[str, Any]) -> None:
    """Wrong fields are refused before anything appears in the store."""
    with pytest.raises(InvalidManifestError):
        store.publish(FILES, fields(**wrong))
    assert store.versions("lesion7") == []


def test_the_older_schema_is_told_in_one_sentence(store: ModelStore) -> None:
    """A version of the first schema says too little to be served: the message names the way out."""
    manifest = store.publish(FILES, fields()).folder / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema_version": 1}))
    with pytest.raises(DamagedVersionError, match="schema 1 and this release reads 2: publish it anew"):
        store.open("lesion7", "1")


def test_int8_is_optional(store: ModelStore) -> None:
    """A version whose int8 variant would lose too much has fp32 alone."""
    golden = {"file": "golden.npz", "tolerance": {"fp32": 0.001}}
    assert list(store.publish(FILES, fields(variants={"fp32": FP32}, golden=golden)).manifest.variants) == ["fp32"]


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a\\b", "a//b", "./a", MANIFEST])
def test_no_file_leaves_its_version(store: ModelStore, name: str) -> None:
    """File names that point elsewhere are refused."""
    with pytest.raises(InvalidManifestError):
        store.publish({**FILES, name: b""}, fields())


@pytest.mark.parametrize("name", ["..", "../lesion7", "", "Lesion", "a/b"])
def test_no_model_name_leaves_the_store(store: ModelStore, name: str) -> None:
    """Model names that are paths are refused."""
    store.publish(FILES, fields())
    with pytest.raises(NotInStoreError):
        store.open(name, "1")


def test_promote_remembers_what_stood_before(store: ModelStore) -> None:
    """`previous` is where `production` was; rolling back swaps them, twice restores."""
    for _ in range(2):
        store.publish(FILES, fields())
    store.promote("lesion7", "1")
    assert store.promote("lesion7", "2") == {"production": "2", "previous": "1"}
    assert store.rollback("lesion7") == {"production": "1", "previous": "2"}
    assert store.rollback("lesion7") == {"production": "2", "previous": "1"}


def test_a_damaged_version_cannot_be_promoted(store: ModelStore) -> None:
    """Aliases point at whole versions only."""
    (store.publish(FILES, fields()).folder / "model.onnx").write_bytes(b"")
    with pytest.raises(DamagedVersionError):
        store.promote("lesion7", "1")
    assert store.aliases("lesion7") == {}


def test_rollback_without_a_previous_version_says_so(store: ModelStore) -> None:
    """There is nothing to roll back to after the first promotion."""
    store.publish(FILES, fields())
    store.promote("lesion7", "1")
    with pytest.raises(AliasError, match="no previous version"):
        store.rollback("lesion7")


def test_publishers_take_turns(store: ModelStore) -> None:
    """Eight publishers at once make eight whole, distinct versions."""
    with ThreadPoolExecutor(8) as threads:
        published = [job.result() for job in [threads.submit(store.publish, FILES, fields()) for _ in range(8)]]
    assert sorted(v.manifest.version for v in published) == [str(n) for n in range(1, 9)]
    for version in store.versions("lesion7"):
        store.verify("lesion7", version)


_PUBLISH_AND_DIE = textwrap.dedent("""
    import os, signal, sys
    from pathlib import Path
    from model_store.store import ModelStore
    from tests.model_store.test_store import FILES, fields

    calls, fatal = 0, int(sys.argv[2])
    for name in ("fsync", "rename", "mkdir"):
        def dying(*args, _real=getattr(os, name), **kwargs):
            global calls
            calls += 1
            if calls == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return _real(*args, **kwargs)
        setattr(os, name, dying)
    ModelStore(Path(sys.argv[1])).publish(FILES, fields())
""")


def test_a_killed_publisher_leaves_no_half_version(store: ModelStore) -> None:
    """Killed by SIGKILL at every system call that writes: readers see whole versions, the next publish succeeds."""
    killed = 0
    for fatal in range(1, 40):
        arguments = [sys.executable, "-c", _PUBLISH_AND_DIE, str(store.root), str(fatal)]
        root = Path(__file__).parents[2]
        process = subprocess.run(arguments, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, check=False)
        for version in store.versions("lesion7") if (store.root / "lesion7").is_dir() else []:
            store.verify("lesion7", version)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        killed += 1
    assert killed >= 8, "the publisher was to be killed at several steps"
    before = store.versions("lesion7")
    assert store.publish(FILES, fields()).manifest.version == str(int(before[-1]) + 1)
    assert not list((store.root / "lesion7").glob(".staging*"))


def test_the_shipped_versions_are_whole() -> None:
    """Every released version in the repository is what was published, and production names one of them."""
    store = ModelStore(SHIPPED)
    for version in store.versions("lesion7"):
        store.verify("lesion7", version)
    assert store.resolve("lesion7", "production") in store.versions("lesion7")


def test_a_shipped_version_is_small() -> None:
    """At most 20 MB a version."""
    store = ModelStore(SHIPPED)
    for version in store.versions("lesion7"):
        files = store.open("lesion7", version).manifest.files.values()
        assert sum(file.size_bytes for file in files) <= 20_000_000
