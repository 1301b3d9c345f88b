"""The worst errors of a published version on its test part, to be looked at: contact sheets and an index.html.

`python -m training gallery --store DIR VERSION --data DIR --out DIR`. The sheets show patients' pictures: they are
written nowhere but to --out, and never where they could be committed.
"""

import html
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from model_store.lesions import lesions
from model_store.store import ModelStore
from training.calibrate import MALIGNANT
from training.data import CLASSES, read_collections
from training.errors import CompareError, GalleryError
from training.evaluation.compare import open_side
from training.evaluation.decision import LOW_RISK, Answers, Rules, answers_to, decide
from training.metrics import Ints
from training.render import Renderer

INDEX = "index.html"
WARNING = (
    "Shows patients' pictures. Keep this folder where the pictures themselves may be kept; do not commit or send it."
)
_COLUMNS, _ROWS = 6, 5
_TILE, _CAPTION = 200, 62  # pixels
_COLUMN_NAMES = ("collection", "picture", "diagnosis", "first answer", "probability", "malignancy", "decision")
_STYLE = """<style>
body { font: 16px sans-serif; margin: 2rem }
img { display: block; max-width: 100%; margin: 1rem 0 }
td, th { padding: .1rem .6rem; text-align: left }
</style>"""


@dataclass(frozen=True)
class Kind:
    """One kind of error: the pictures concerned, worst first."""

    slug: str
    title: str
    worst_first: Ints


def write_gallery(store: ModelStore, model: str, name: str, data: Path, out: Path, most: int) -> Path:
    """At most `most` pictures of each kind of error, worst first. Returns the index.

    Raises GalleryError, StoreError, CompareError, DataError.
    """
    _require_private(out)
    side = open_side(store, model, name)
    wanted = side.test_ids()
    pictures = tuple(p for p in read_collections(side.config.data, data) if (p.collection, p.image_id) in wanted)
    if not pictures:
        raise CompareError(f"none of the {len(wanted)} test pictures of {side.name} is in {data}")
    manifest, rules = side.version.manifest, Rules.of(side.version.manifest)
    batches = Renderer(side.config, manifest.preprocessing).batches(pictures, side.name)
    answers = answers_to(side.classifier(), pictures, batches, rules.quality)
    out.mkdir(parents=True, exist_ok=True)
    sections = [_section(kind, answers, rules, most, out) for kind in kinds(answers, rules)]
    heading = f"Errors of {model} {side.name} on {len(pictures)} test pictures"
    (out / INDEX).write_text(_page(heading, sections), encoding="utf-8")
    return out / INDEX


def kinds(answers: Answers, rules: Rules) -> tuple[Kind, ...]:
    """Missed malignant lesions first: those called low risk before those that were at least abstained on."""
    part = answers.predictions
    malignant, flagged, first = MALIGNANT[part.labels], part.malignancy >= rules.threshold, part.probabilities.argmax(1)
    calmed = decide(answers, rules) == LOW_RISK
    refused = answers.poor | (answers.scores < rules.in_distribution.refuse_below)
    confidence = part.probabilities.max(axis=1)
    return (
        Kind("missed", "Malignant, below the threshold", _ordered(malignant & ~flagged, part.malignancy - calmed)),
        Kind("false-alarms", "Benign, flagged as malignant", _ordered(~malignant & flagged, -part.malignancy)),
        Kind("wrong", "Wrong first diagnosis, most confident first", _ordered(first != part.labels, -confidence)),
        Kind("refused", "Lesions that a gate refuses", _ordered(refused, answers.scores)),
    )


def _ordered(chosen: NDArray[np.bool_], rank: NDArray[np.floating]) -> Ints:
    return np.flatnonzero(chosen)[np.argsort(rank[chosen], kind="stable")]


def _require_private(out: Path) -> None:
    """Refuse a folder whose content git could commit, and one that holds anything but a gallery."""
    folder = out.resolve()
    inside = next((parent for parent in (folder, *folder.parents) if (parent / ".git").exists()), None)
    if inside and not _ignored(folder, inside):
        raise GalleryError(f"{out} is inside the repository {inside.name}: pictures of patients must not be committed")
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / INDEX).exists())):
        raise GalleryError(f"{out} holds something that is no gallery: choose a new folder")


def _ignored(folder: Path, repository: Path) -> bool:
    """Does git leave the folder out? Without git, no."""
    git = shutil.which("git")
    if git is None:
        return False
    command = [git, "-C", str(repository), "check-ignore", "--quiet", str(folder / INDEX)]
    return subprocess.run(command, check=False).returncode == 0  # noqa: S603 - fixed words and a path


def _section(kind: Kind, answers: Answers, rules: Rules, most: int, out: Path) -> str:
    """Write the sheets of one kind; its part of the page."""
    shown, per_sheet = kind.worst_first[:most], _COLUMNS * _ROWS
    decided, parts = decide(answers, rules), [f"<h2>{kind.title}: {len(kind.worst_first)}</h2>"]
    for number, start in enumerate(range(0, len(shown), per_sheet), 1):
        file = f"{kind.slug}-{number}.png"
        _sheet(shown[start : start + per_sheet], answers, decided).save(out / file)
        parts.append(f'<img src="{file}" alt="{kind.title}, sheet {number}">')
    rows = "".join(
        f"<tr>{''.join(f'<td>{html.escape(c)}</td>' for c in _row(i, answers, decided))}</tr>" for i in shown
    )
    header = "".join(f"<th>{name}</th>" for name in _COLUMN_NAMES)
    return "\n".join(
        [*parts, f"<details><summary>as a table</summary><table><tr>{header}</tr>{rows}</table></details>"]
    )


def _row(index: int, answers: Answers, decided: NDArray[np.str_]) -> tuple[str, ...]:
    part = answers.predictions
    picture, probabilities = part.pictures[index], part.probabilities[index]
    first = int(probabilities.argmax())
    numbers = (f"{probabilities[first]:.2f}", f"{part.malignancy[index]:.3f}")
    return (picture.collection, picture.image_id, picture.dx, CLASSES[first], *numbers, str(decided[index]))


def _sheet(indices: Ints, answers: Answers, decided: NDArray[np.str_]) -> Image.Image:
    """One contact sheet: a thumbnail of each file as it is, and a caption."""
    rows = -(-len(indices) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _TILE, rows * (_TILE + _CAPTION)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for place, index in enumerate(indices):
        left, top = place % _COLUMNS * _TILE, place // _COLUMNS * (_TILE + _CAPTION)
        with Image.open(answers.predictions.pictures[index].file) as image:
            image.draft("RGB", (2 * _TILE, 2 * _TILE))
            thumbnail = image.convert("RGB")
        thumbnail.thumbnail((_TILE - 8, _TILE - 8))
        sheet.paste(thumbnail, (left + (_TILE - thumbnail.width) // 2, top + (_TILE - thumbnail.height) // 2))
        _, name, truth, first, probability, malignancy, decision = _row(index, answers, decided)
        caption = f"{name}\n{truth}, answered {first} {probability}\nmalignancy {malignancy}: {decision}"
        pen.text((left + 6, top + _TILE - 2), caption, fill="black", font=font)
    return sheet


def _page(heading: str, sections: Sequence[str]) -> str:
    codes = ", ".join(f"{code}: {lesion.name}" for code, lesion in lesions().items())
    title = html.escape(heading)
    parts = ['<!doctype html>\n<html lang="en">\n<meta charset="utf-8">', f"<title>{title}</title>{_STYLE}"]
    parts += [f"<h1>{title}</h1>", f"<p><strong>{WARNING}</strong></p>", f"<p>{codes}</p>", *sections, "</html>\n"]
    return "\n".join(parts)
