"""Small builders that several tests of the training job share."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from model_store.contract.manifest import Certainty, InDistribution
from model_store.contract.quality import QualityLimits
from training.config import Collection, Data
from training.data import CLASSES, Picture
from training.evaluation.decision import Rules
from training.evaluation.tables import Predictions
from training.metrics import Floats

RULES = Rules(
    threshold=0.25,
    reference_prevalence=0.2,
    certainty=Certainty(measure="margin", threshold=0.1, coverage=0.9),
    in_distribution=InDistribution(refuse_below=0.2, warn_below=0.5),
    quality=QualityLimits(
        min_side_pixels=32,
        sharpness_min=0.0,
        brightness_min=0.1,
        brightness_max=0.95,
        dark_share_max=0.8,
        bright_share_max=0.8,
        contrast_min=0.01,
    ),
)


def data_of(*collections: Collection, **changes: object) -> Data:
    """A data section that reads `collections`."""
    values = {
        "collections": collections,
        "cache_pixels": 32,
        "validation_share": 0.1,
        "test_share": 0.15,
        "natural_mix": collections[0].name,
    }
    return Data.model_validate({**values, **changes})


def hospital_folder(folder: Path, rows: Iterable[Mapping[str, str]], delimiter: str = ",") -> Path:
    """A folder with `metadata.csv` and one small drawn picture for each row, as a hospital would lay it out."""
    (folder / "images").mkdir(parents=True)
    rows = list(rows)
    for row in rows:
        save_picture(folder / "images" / f"{row['image_id']}.jpg")
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, names, delimiter=delimiter)
        table.writeheader()
        table.writerows(rows)
    return folder


def save_picture(file: Path, width: int = 40, height: int = 30) -> None:
    """A picture with some structure."""
    ramp = np.linspace(40, 200, width, dtype=np.uint8)
    Image.fromarray(np.broadcast_to(ramp[None, :, None], (height, width, 3)).copy()).save(file)


def picture(image_id: str, dx: str, lesion: str = "", collection: str = "clinic", **more: object) -> Picture:
    """A picture that only metadata is asked of."""
    values = {"age": None, "sex": "", "localization": "", "skin_tone": "", "file": Path(image_id)} | more
    return Picture(
        collection=collection,
        image_id=image_id,
        lesion_id=f"{collection}/{lesion or image_id}",
        dx=dx,
        **values,  # type: ignore[arg-type]
    )


def predictions(n: int = 300, seed: int = 0, skill: float = 2.0) -> Predictions:
    """Random pictures, two to a lesion, with probabilities that lean to the right class."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(CLASSES), (n + 1) // 2).repeat(2)[:n]
    logits = random.normal(0, 1, (n, len(CLASSES)))
    logits[np.arange(n), labels] += skill
    exponents = np.exp(logits)
    probabilities: Floats = exponents / exponents.sum(axis=1, keepdims=True)
    pictures = tuple(picture(f"p{i}", CLASSES[label], f"l{i // 2}") for i, label in enumerate(labels))
    return Predictions(pictures, probabilities)
