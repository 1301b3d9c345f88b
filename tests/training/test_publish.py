"""What the chain publishes is whole, small, and tells where it comes from."""

import gzip
import json
import re
from datetime import UTC, datetime

import pytest

from model_store.store import ModelStore
from tests.training.conftest import SMOKE_CONFIG, SmokeChain
from training.config import Config, read_config
from training.data import CLASSES


def test_store_accepts_the_version(smoke_chain: SmokeChain) -> None:
    """Every file is listed with its digest, and the manifest is valid."""
    manifest = ModelStore(smoke_chain.store).verify("smoke", "1").manifest
    assert manifest.classes == CLASSES
    assert set(manifest.files) == {
        *(variant.file for variant in manifest.variants.values()),
        "golden.npz",
        "reference.json",
        "MODEL_CARD.md",
        "evaluation.json",
        "config.toml",
        "log.csv",
        "run.json",
        "split.csv.gz",
        *(
            f"plots/{name}.png"
            for name in ("confusion", "gates", "reliability", "robustness", "roc", "selective", "training")
        ),
    }


def test_version_is_small(smoke_chain: SmokeChain) -> None:
    """The whole version stays below 20 MB, the golden vectors below 1 MB, each plot below 300 kB."""
    files = smoke_chain.version.manifest.files
    assert sum(file.size_bytes for file in files.values()) < 20_000_000
    assert files["golden.npz"].size_bytes < 1_000_000
    assert all(file.size_bytes < 300_000 for name, file in files.items() if name.startswith("plots/"))


def test_manifest_says_what_was_chosen(smoke_chain: SmokeChain, smoke_config: Config) -> None:
    """Threshold, calibration and preprocessing are those of the evaluation and the configuration."""
    manifest = smoke_chain.version.manifest
    chosen = json.loads(smoke_chain.version.read("evaluation.json"))["calibration"]
    assert manifest.malignancy.threshold == chosen["malignancy_threshold"]
    assert manifest.calibration.temperature == chosen["temperature"]
    assert manifest.calibration.prior_share == chosen["prior_share"]
    assert manifest.calibration.prior_weight == chosen["prior_weight"]
    assert len(chosen["candidates"]) == 41
    assert manifest.calibration.reference_prevalence == chosen["reference_prevalence"]
    assert manifest.certainty.measure == chosen["certainty"]["measure"]
    assert list(manifest.certainty.class_weights) == chosen["certainty"]["class_weights"]
    assert manifest.certainty.class_weights == pytest.approx([manifest.calibration.prior[c] ** 0.5 for c in CLASSES])
    assert manifest.certainty.threshold == chosen["certainty"]["threshold"]
    assert (manifest.preprocessing.height, manifest.preprocessing.resize) == (64, "squash")
    assert manifest.malignancy.target_sensitivity == smoke_config.decision.malignant_sensitivity
    assert (datetime.now(UTC) - manifest.created_at).total_seconds() < 3600


def test_run_can_be_repeated_from_the_version(smoke_chain: SmokeChain) -> None:
    """The version carries its configuration, its split, and their digests."""
    version = smoke_chain.version
    record = json.loads(version.read("run.json"))
    assert version.read("config.toml") == SMOKE_CONFIG.read_bytes()
    assert record["config_digest"] == version.manifest.provenance.config_digest == read_config(SMOKE_CONFIG).digest
    assert record["split_digest"] == version.manifest.provenance.split_digest
    assert gzip.decompress(version.read("split.csv.gz")) == (smoke_chain.run / "split.csv").read_bytes()
    assert record["seed"] == 7
    assert record["commit"] == "unknown" or re.fullmatch("[0-9a-f]{40}(-dirty)?", record["commit"])


@pytest.mark.parametrize(
    "name", ["MODEL_CARD.md", "evaluation.json", "reference.json", "run.json", "config.toml", "log.csv"]
)
def test_published_text_names_no_machine(smoke_chain: SmokeChain, name: str) -> None:
    """No absolute path of the machine that trained stands in a published file."""
    text = smoke_chain.version.read(name).decode()
    assert str(smoke_chain.run.parent) not in text
    assert not re.search(r"(?<![\w.])/(home|work|root|tmp|Users)/", text)


def test_network_has_learnt_the_drawn_pictures(smoke_chain: SmokeChain) -> None:
    """The chain as a whole works: far better than the 1/7 of guessing."""
    found = json.loads(smoke_chain.version.read("evaluation.json"))["test"]["collections"]["generated"]
    assert found["balanced_accuracy"]["value"] > 0.5
    assert found["malignant_auroc"]["value"] > 0.8
