"""The whole chain on real pictures: what the service answers is what the evaluation promised."""

import csv
import gzip
import io
import json
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from model_store.store import PRODUCTION, SHIPPED, ModelStore
from training.render import at_aspect

SHIPPED_VERSION = ModelStore(SHIPPED).open("lesion7", PRODUCTION)

PUBLISHED_ASPECT = 4 / 3  # 600 x 450 pixels


@pytest.fixture(scope="module")
def answers(service_url: str, data_folder: Path) -> list[tuple[str, dict]]:
    """True class and answer for every HAM10000 picture of the shipped version's test part, through the service."""
    (table,) = [name for name in SHIPPED_VERSION.manifest.files if name.startswith("split.csv")]
    raw = SHIPPED_VERSION.read(table)
    text = gzip.decompress(raw) if table.endswith(".gz") else raw
    rows = [
        r for r in csv.DictReader(io.StringIO(text.decode())) if (r["collection"], r["part"]) == ("ham10000", "test")
    ]
    files = {file.stem: file for file in (data_folder / "ham10000").glob("HAM10000_images_part_*/*.jpg")}

    with httpx.Client(base_url=service_url, timeout=60) as client, ThreadPoolExecutor(2) as threads:

        def ask(row: dict[str, str]) -> tuple[str, dict]:
            body = as_published(files[row["image_id"]])
            return row["dx"], client.post("/v1/predictions", content=body).raise_for_status().json()

        return list(threads.map(ask, rows))


def as_published(file: Path) -> bytes:
    """A PNG of the picture in its true aspect: the copies here may be squashed, as no clinic's pictures are."""
    with Image.open(file) as image:
        encoded = io.BytesIO()
        at_aspect(image.convert("RGB"), PUBLISHED_ASPECT).save(encoded, "PNG", compress_level=1)
        return encoded.getvalue()


def test_the_service_reaches_the_evaluations_figures(answers: list[tuple[str, dict]]) -> None:
    """Balanced and top-2 accuracy of the probabilities are those of evaluation.json for the variant that serves, within
    0.002; diagnoses are those probabilities' or, for the few pictures that the gate takes for no lesion, none.
    """
    (variant,) = {answer["model"]["variant"] for _, answer in answers}
    figures = _figures(variant)
    right: dict[str, list[bool]] = defaultdict(list)
    best_two = [sorted(answer["probabilities"], key=answer["probabilities"].get)[:-3:-1] for _, answer in answers]
    for (dx, answer), codes in zip(answers, best_two, strict=True):
        right[dx].append(codes[0] == dx)
        shown = [answer["probabilities"][code] for code in codes] if answer["in_distribution"]["accepted"] else []
        assert [d["probability"] for d in answer["diagnoses"]] == shown
    top2 = np.mean([dx in codes for (dx, _), codes in zip(answers, best_two, strict=True)])
    assert np.mean([not answer["in_distribution"]["accepted"] for _, answer in answers]) < 0.03
    balanced = np.mean([np.mean(hits) for hits in right.values()])
    assert balanced == pytest.approx(figures["balanced_accuracy"], abs=0.002)
    assert top2 == pytest.approx(figures["top2_accuracy"], abs=0.002)


def _figures(variant: str) -> dict[str, float]:
    """Of the test part of HAM10000: fp32's stand first, any other's in the comparison with it."""
    evaluation = json.loads(SHIPPED_VERSION.read("evaluation.json"))
    if variant == "fp32":
        found = evaluation["test"]["collections"]["ham10000"]
        return {name: found[name]["value"] for name in ("balanced_accuracy", "top2_accuracy")}
    compared = evaluation["variants"][variant]["ham10000"]["figures"]
    return {name: found["b"]["value"] for name, found in compared.items()}


@pytest.mark.parametrize("dx", SHIPPED_VERSION.manifest.classes)
def test_each_class_is_recognised(answers: list[tuple[str, dict]], dx: str) -> None:
    """Of a class's unseen pictures, most have it among their two diagnoses."""
    named = [dx in [d["code"] for d in answer["diagnoses"]] for true, answer in answers if true == dx]
    assert np.mean(named) > 0.5


def test_the_shipped_version_meets_its_floor() -> None:
    """Balanced accuracy at least 0.75, top-2 at least 0.90, calibration error at most 0.05, on unseen lesions."""
    test = json.loads(SHIPPED_VERSION.read("evaluation.json"))["test"]["collections"]["ham10000"]
    assert test["balanced_accuracy"]["value"] >= 0.75
    assert test["top2_accuracy"]["value"] >= 0.90
    assert test["expected_calibration_error"]["value"] <= 0.05
