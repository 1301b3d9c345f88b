"""Two published versions, or two variants of one, on the same pictures that neither was trained on or chosen with.

`python -m training compare --store DIR VERSION_A VERSION_B --data DIR`, a version as `2`, `production` or `2:int8`.
"""

import csv
import gzip
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from model_store.contract.manifest import VariantName
from model_store.store import ModelStore, ModelVersion
from training.config import Config, parse_config
from training.data import Picture, read_collections
from training.earlier import CONFIG_FILE
from training.errors import CompareError
from training.evaluation.tables import (
    HEADLINE,
    Interval,
    Predictions,
    Resampling,
    classify,
    figures,
    in_collection,
    with_interval,
)
from training.export import OnnxClassifier
from training.metrics import Floats
from training.publish import SPLIT_FILE
from training.render import Renderer

FP32: VariantName = "fp32"


@dataclass(frozen=True)
class Side:
    """One of the two: a version with the variant that is looked at."""

    version: ModelVersion
    variant: VariantName

    @property
    def name(self) -> str:
        """`2:int8`."""
        return f"{self.version.manifest.version}:{self.variant}"

    @property
    def config(self) -> Config:
        """The configuration that it was trained with. Raises ConfigError."""
        return parse_config(self.version.read(CONFIG_FILE), f"{CONFIG_FILE} of version {self.name}")

    @property
    def threshold(self) -> float:
        """Of the malignancy probability."""
        return self.version.manifest.malignancy.threshold

    def classifier(self) -> OnnxClassifier:
        """Its graph, ready to answer."""
        return OnnxClassifier(self.version.read(self.version.manifest.variants[self.variant].file))

    def answers(self, pictures: Sequence[Picture], progress: str) -> Predictions:
        """Its answers to `pictures`, through its own preprocessing."""
        batches = Renderer(self.config, self.version.manifest.preprocessing).batches(pictures, progress)
        return Predictions(tuple(pictures), classify(self.classifier(), batches))

    def test_ids(self) -> set[tuple[str, str]]:
        """(collection, image_id) of its test part."""
        table = gzip.decompress(self.version.read(f"{SPLIT_FILE}.gz")).decode()
        rows = csv.DictReader(io.StringIO(table))
        return {(row["collection"], row["image_id"]) for row in rows if row["part"] == "test"}


def open_side(store: ModelStore, model: str, text: str) -> Side:
    """`VERSION[:VARIANT]`; without a variant, fp32. Raises StoreError, CompareError."""
    number, _, variant = text.partition(":")
    version = store.verify(model, number)
    for known in get_args(VariantName):
        if (variant or FP32) == known and known in version.manifest.variants:
            return Side(version, known)
    raise CompareError(
        f"version {version.manifest.version} has no variant {variant!r}: it has {', '.join(version.manifest.variants)}"
    )


def compare_versions(store: ModelStore, model: str, names: Sequence[str], data: Path) -> dict[str, Any]:
    """Figures of both with paired differences, on each collection and on all. JSON-ready.

    Raises StoreError, CompareError (no picture is in both test parts), DataError.
    """
    first, second = (open_side(store, model, name) for name in names)
    pictures = _unseen(first, second, data)
    answers = [side.answers(pictures, side.name) for side in (first, second)]
    resample = Resampling(first.config.seed, first.config.bootstrap_resamples)
    collections = sorted({picture.collection for picture in pictures})
    mixes = {name: [part.of(in_collection(name)) for part in answers] for name in collections} | {"all": answers}
    thresholds = (first.threshold, second.threshold)
    return {
        "model": model,
        "versions": [first.name, second.name],
        "digests": [first.version.digest, second.version.digest],
        "interval": f"95 %, {resample.resamples} bootstrap resamples of lesions, the same for both",
        "mixes": {name: paired(a, b, thresholds, resample) for name, (a, b) in mixes.items()},
    }


def paired(a: Predictions, b: Predictions, thresholds: tuple[float, float], resample: Resampling) -> dict[str, Any]:
    """Headline figures of two sides on the same pictures, and b less a with the interval of the difference."""
    once, drawn = np.ones((1, len(a.pictures))), resample.weights(a.pictures)
    plain = [figures(side, t, once) for side, t in zip((a, b), thresholds, strict=True)]
    resampled = [figures(side, t, drawn) for side, t in zip((a, b), thresholds, strict=True)]
    change = np.abs(a.probabilities - b.probabilities).max(axis=1)
    same_first = a.probabilities.argmax(axis=1) == b.probabilities.argmax(axis=1)
    return {
        "pictures": len(a.pictures),
        "lesions": len({picture.lesion_id for picture in a.pictures}),
        "figures": {name: _paired_figure(name, plain, resampled) for name in HEADLINE},
        "largest_probability_change": {f"p{p}": round(float(np.percentile(change, p)), 5) for p in (50, 99, 100)},
        "same_first_diagnosis": round(float(same_first.mean()), 5),
    }


def as_table(found: dict[str, Any]) -> str:
    """The comparison for a terminal: one block a mix, `*` where the difference's interval leaves zero out."""
    first, second = found["versions"]
    lines = [f"{found['model']}: {first} and {second} ({found['interval']})"]
    for mix, of in found["mixes"].items():
        lines += ["", f"{mix}: {of['pictures']} pictures of {of['lesions']} lesions"]
        lines.append(f"  {'':28}{first:>10}{second:>10}   difference")
        lines += [_line(name, figure) for name, figure in of["figures"].items()]
        lines.append(f"  same first diagnosis: {of['same_first_diagnosis']:.1%}")
    return "\n".join(lines)


def _paired_figure(
    name: str, plain: list[dict[str, Floats]], resampled: list[dict[str, Floats]]
) -> dict[str, Interval]:
    a, b = (with_interval(p[name], r[name]) for p, r in zip(plain, resampled, strict=True))
    return {
        "a": a,
        "b": b,
        "difference": with_interval(plain[1][name] - plain[0][name], resampled[1][name] - resampled[0][name]),
    }


def _line(name: str, figure: dict[str, Interval]) -> str:
    a, b, difference = figure["a"]["value"], figure["b"]["value"], figure["difference"]
    low, high = difference["low"], difference["high"]
    if a is None or b is None or difference["value"] is None or low is None or high is None:
        return f"  {name.replace('_', ' '):28}{'-':>10}{'-':>10}"
    mark = " *" if low > 0 or high < 0 else ""
    return (
        f"  {name.replace('_', ' '):28}{a:10.4f}{b:10.4f}   {difference['value']:+.4f} [{low:+.4f}, {high:+.4f}]{mark}"
    )


def _unseen(first: Side, second: Side, data: Path) -> tuple[Picture, ...]:
    """Pictures on disk that are in the test part of both."""
    wanted = first.test_ids() & second.test_ids()
    if not wanted:
        raise CompareError(
            f"no picture is in the test part of both {first.name} and {second.name}: what one of them was trained on "
            "cannot be compared on"
        )
    pictures = tuple(p for p in read_collections(first.config.data, data) if (p.collection, p.image_id) in wanted)
    if not pictures:
        raise CompareError(f"none of the {len(wanted)} pictures in both test parts is in {data}")
    return pictures
