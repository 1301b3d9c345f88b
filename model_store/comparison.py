"""Two versions side by side: their figures with intervals, and which pictures of a folder change their answer."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from model_store.contract.manifest import Manifest, VariantName
from model_store.errors import ReplayError
from model_store.gate import read_evaluation
from model_store.replay import PictureAnswer, Runner, read_picture
from model_store.store import ModelVersion

_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}


def compared_figures(first: ModelVersion, second: ModelVersion) -> list[dict[str, Any]]:
    """A row for each figure that both have: mix, figure, {value, low, high} of each, and the difference of the values.

    Intervals that do not touch are told as `apart`: both were measured on test pictures, perhaps not the same ones.
    """
    ours, theirs = (_figures(read_evaluation(version)) for version in (first, second))
    return [_row(mix, name, ours[mix, name], theirs[mix, name]) for mix, name in ours if (mix, name) in theirs]


def compared_pictures(
    first: ModelVersion, second: ModelVersion, variant: VariantName, folder: Path
) -> tuple[int, list[dict[str, Any]]]:
    """(how many pictures, those whose first diagnosis or malignancy decision changes). Raises ReplayError."""
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in _PICTURES) if folder.is_dir() else []
    if not files:
        raise ReplayError(f"{folder}: no folder with pictures")
    runners = [Runner(version, variant) for version in (first, second)]
    rows = []
    for file in files:
        picture = read_picture(file)
        before, after = ({**_told(runner.answer(picture), runner.manifest)} for runner in runners)
        if (before["first"], before["above_threshold"]) != (after["first"], after["above_threshold"]):
            rows.append({"picture": str(file.relative_to(folder)), "first": before, "second": after})
    return len(files), rows


def _told(answer: PictureAnswer, manifest: Manifest) -> dict[str, Any]:
    malignant = answer.malignant(manifest)
    best = int(answer.probabilities.argmax())
    return {
        "first": manifest.classes[best],
        "probability": round(float(answer.probabilities[best]), 4),
        "malignant": round(malignant, 4),
        "above_threshold": malignant >= manifest.malignancy.threshold,
    }


def _figures(evaluation: dict[str, Any] | None) -> dict[tuple[str, str], Mapping[str, float]]:
    """(mix, figure) -> value, low, high: of each collection, of all together, and of each class of all."""
    test = (evaluation or {}).get("test")
    if not isinstance(test, dict):
        return {}
    mixes = {**test.get("collections", {}), "all": test.get("all", {})}
    found = {(mix, name): figure for mix, part in mixes.items() for name, figure in _intervals(part)}
    for code, part in mixes["all"].get("classes", {}).items():
        found |= {(f"all, {code}", name): figure for name, figure in _intervals(part)}
    return found


def _intervals(part: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, float]]]:
    for name, figure in part.items():
        if isinstance(figure, dict) and all(isinstance(figure.get(k), int | float) for k in ("value", "low", "high")):
            yield name, figure


def _row(mix: str, name: str, ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, Any]:
    return {
        "mix": mix,
        "figure": name,
        "first": dict(ours),
        "second": dict(theirs),
        "difference": round(theirs["value"] - ours["value"], 5),
        "apart": ours["high"] < theirs["low"] or theirs["high"] < ours["low"],
    }
