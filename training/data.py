"""Collections on disk -> validated pictures -> lesion-grouped split -> squashed copies in memory.

A collection is the published HAM10000 archive (two picture folders and `HAM10000_metadata.csv`) or a folder with a
`metadata.csv` (image_id and dx; optional lesion_id, age, sex, localization, skin_tone) beside its pictures, which
may lie in `images/`. Nothing is guessed: every problem is collected and all are reported at once.
"""

import csv
import hashlib
import io
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from model_store.contract.preprocessing import REDUCED_DECODE_FACTOR, Preprocessing, load_rgb, to_input
from model_store.lesions import lesions
from training.config import Collection, Data
from training.errors import DataError

CLASSES = tuple(lesions())
PARTS = ("train", "validation", "test")
_UNKNOWN = {"", "unknown", "nan", "na"}
_OLDEST_YEARS = 130
_Item = TypeVar("_Item")
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}
_HAM_METADATA = ("HAM10000_metadata.csv", "HAM10000_metadata", "HAM10000_metadata.tab")


@dataclass(frozen=True)
class Picture:
    """One labelled picture of a collection; empty strings where the collection does not say."""

    collection: str
    image_id: str
    lesion_id: str  # unique over all collections
    dx: str
    file: Path
    age: float | None
    sex: str
    localization: str
    skin_tone: str

    @property
    def label(self) -> int:
        """Index of the class, in the order of `CLASSES`."""
        return CLASSES.index(self.dx)


@dataclass(frozen=True)
class LoadedPictures:
    """Pictures in memory: squashed pixels uint8 [N, S, S, 3] and the true aspect (width / height) float32 [N]."""

    pictures: tuple[Picture, ...]
    pixels: NDArray[np.uint8]
    aspects: NDArray[np.float32]


def read_collections(data: Data, root: Path) -> tuple[Picture, ...]:
    """All pictures the configuration asks for, sorted. Raises DataError with every problem found in any metadata."""
    problems: list[str] = []
    pictures: list[Picture] = []
    for collection in data.collections:
        found, wrong = _read_collection(collection, root / collection.path)
        pictures += found
        problems += wrong
    problems += [f"{i}: listed {n} times" for i, n in Counter(p.image_id for p in pictures).items() if n > 1]
    problems += _contradicting_lesions(pictures)
    if problems:  # one error lists them all, so the pictures that could be loaded are looked at too
        raise DataError(problems + _unreadable(pictures))
    return tuple(sorted(pictures, key=lambda p: (p.collection, p.image_id)))


def read_outliers(data: Data, root: Path) -> tuple[Picture, ...]:
    """Pictures that the configuration leaves out of the training of the network, for its gate: those of the ignored
    diagnoses under their own `dx`, and close-up photographs as `close_up` (each a lesion of its own).
    """
    found: list[Picture] = []
    for collection in data.collections:
        folder = root / collection.path
        if collection.ignore_dx:
            metadata = _metadata_file(folder)
            rows, _ = _read_rows(collection, metadata) if metadata else ([], [])
            files, _ = _picture_files(folder)
            wanted = (row for row in rows if row["dx"] in collection.ignore_dx and row["image_id"] in files)
            found += [_picture(collection.name, row, files[row["image_id"]]) for row in wanted]
        if collection.close_ups:
            photographs = (f for f in (folder / collection.close_ups).iterdir() if f.suffix.lower() in _SUFFIXES)
            found += [
                _picture(collection.name, {"image_id": file.stem, "dx": "close_up"}, file) for file in photographs
            ]
    return tuple(sorted(found, key=lambda p: (p.collection, p.dx, p.image_id)))


def load_pictures(pictures: Sequence[Picture], data: Data) -> LoadedPictures:
    """Decode every picture once, in threads. Raises DataError that lists all unreadable files."""
    contract = _squashed(data.cache_pixels)
    fixed_aspect = {collection.name: collection.aspect for collection in data.collections}
    pixels = np.empty((len(pictures), data.cache_pixels, data.cache_pixels, 3), np.uint8)
    aspects = np.empty(len(pictures), np.float32)

    def load(index: int) -> str | None:
        picture = pictures[index]
        rgb = _decode(picture, contract)
        if isinstance(rgb, str):
            return rgb
        pixels[index] = to_input(rgb, contract)
        aspects[index] = fixed_aspect[picture.collection] or rgb.width / rgb.height
        return None

    problems = _each(load, range(len(pictures)), "reading pictures")
    if problems:
        raise DataError(problems)
    return LoadedPictures(tuple(pictures), pixels, aspects)


def split_by_lesion(pictures: Sequence[Picture], data: Data, seed: int) -> dict[str, str]:
    """image_id -> part. All pictures of a lesion share a part; shares hold in each class of each collection.

    Every class that has at least three lesions in a collection stands in all three parts; a collection that is left
    out stands in the test part alone.
    """
    images: dict[str, list[str]] = defaultdict(list)
    strata: dict[tuple[str, str], list[str]] = defaultdict(list)
    for picture in pictures:
        if picture.lesion_id not in images:
            strata[picture.collection, picture.dx].append(picture.lesion_id)
        images[picture.lesion_id].append(picture.image_id)
    random = np.random.default_rng(seed)
    parts: dict[str, str] = {}
    for stratum in sorted(strata):
        ordered = sorted(strata[stratum])
        random.shuffle(ordered)
        held_out = [max(1, round(share * len(ordered))) for share in (data.test_share, data.validation_share)]
        tests, validations = held_out if len(ordered) >= len(PARTS) else (0, 0)
        if stratum[0] in data.left_out:
            tests = len(ordered)
        for rank, lesion in enumerate(ordered):
            part = "test" if rank < tests else "validation" if rank < tests + validations else "train"
            parts.update(dict.fromkeys(images[lesion], part))
    return parts


def data_digest(loaded: LoadedPictures) -> str:
    """sha256 over every picture's id, lesion, diagnosis and decoded pixels: changes when any of them does."""
    digest = hashlib.sha256()
    for picture, pixels in zip(loaded.pictures, loaded.pixels, strict=True):
        digest.update(f"{picture.collection}/{picture.image_id}/{picture.lesion_id}/{picture.dx}\n".encode())
        digest.update(pixels.tobytes())
    return "sha256:" + digest.hexdigest()


def split_digest(parts: dict[str, str]) -> str:
    """sha256 over the sorted image ids and their parts."""
    lines = "".join(f"{image_id},{parts[image_id]}\n" for image_id in sorted(parts))
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def write_split(pictures: Iterable[Picture], parts: dict[str, str], file: Path) -> None:
    """Write the split as a table: collection, image_id, lesion_id, dx, part."""
    with file.open("w", newline="", encoding="utf-8") as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow(("collection", "image_id", "lesion_id", "dx", "part"))
        table.writerows((p.collection, p.image_id, p.lesion_id, p.dx, parts[p.image_id]) for p in pictures)


def _squashed(pixels: int) -> Preprocessing:
    return Preprocessing(height=pixels, width=pixels, resize="squash", reduced_decode_factor=REDUCED_DECODE_FACTOR)


def _decode(picture: Picture, contract: Preprocessing) -> Image.Image | str:
    """The picture, or what is wrong with its file."""
    try:
        with Image.open(picture.file) as image:
            return load_rgb(image, contract)
    except Exception as error:  # Pillow raises many kinds for damaged files; each is reported, none is hidden
        reason = str(error).replace(str(picture.file), picture.file.name)
        return f"{picture.collection}: {picture.image_id}: cannot be read ({type(error).__name__}: {reason})"


def _unreadable(pictures: Sequence[Picture]) -> list[str]:
    """What is wrong with the files of `pictures`; decoded at a small scale, nothing is kept."""
    contract = _squashed(32)

    def check(picture: Picture) -> str | None:
        decoded = _decode(picture, contract)
        return decoded if isinstance(decoded, str) else None

    return _each(check, pictures, "checking pictures")


def _each(look: Callable[[_Item], str | None], items: Sequence[_Item], progress: str) -> list[str]:
    """Run `look` over all items in threads, with a progress bar; the problems it returned, in order."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        outcomes = list(tqdm(threads.map(look, items), progress, len(items), unit=" pictures", mininterval=1))
    return [outcome for outcome in outcomes if outcome]


def _read_collection(collection: Collection, folder: Path) -> tuple[list[Picture], list[str]]:
    """The collection's pictures and what is wrong with them."""
    if not folder.is_dir():
        return [], [f"{collection.name}: there is no folder {folder}"]
    metadata = _metadata_file(folder)
    if metadata is None:
        return [], [f"{collection.name}: no {_HAM_METADATA[0]} and no metadata.csv in {folder}"]
    rows, problems = _read_rows(collection, metadata)
    files, duplicates = _picture_files(folder)
    problems += [f"{collection.name}: {line}" for line in duplicates]
    listed = {row["image_id"] for row in rows}
    problems += [f"{image_id}: picture without a row in {metadata.name}" for image_id in sorted(set(files) - listed)]
    pictures = []
    for row in rows:
        image_id, dx = row["image_id"], row["dx"]
        if dx in collection.ignore_dx:
            continue
        wrong = _row_problem(row, files)
        if wrong:
            problems.append(f"{collection.name}: {image_id or '(no image_id)'}: {wrong}")
            continue
        pictures.append(_picture(collection.name, row, files[image_id]))
    return pictures, problems


def _metadata_file(folder: Path) -> Path | None:
    return next((folder / n for n in (*_HAM_METADATA, "metadata.csv") if (folder / n).is_file()), None)


def _read_rows(collection: Collection, metadata: Path) -> tuple[list[dict[str, str]], list[str]]:
    """The table's rows. Its delimiter is what the header line holds most of: the Dataverse serves the same table with
    commas or tabs, and a hospital's spreadsheet may write semicolons.
    """
    try:
        text = metadata.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return [], [f"{collection.name}: {metadata.name} is not UTF-8 text"]
    header = text.partition("\n")[0]
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",\t;", key=header.count), restval="")
    missing = {"image_id", "dx"} - set(table.fieldnames or ())
    if missing:
        return [], [f"{collection.name}: {metadata.name} has no column {', '.join(sorted(missing))}"]
    return [{name: (value or "").strip() for name, value in row.items() if name} for row in table], []


def _row_problem(row: dict[str, str], files: dict[str, Path]) -> str | None:
    if not row["dx"]:
        return "no diagnosis (column dx is empty)"
    if row["dx"] not in CLASSES:
        return f"unknown class {row['dx']!r} (known: {', '.join(CLASSES)})"
    if row["image_id"] not in files:
        return "no picture file"
    return _age_problem(row.get("age", ""))


def _age_problem(age: str) -> str | None:
    if age.lower() in _UNKNOWN:
        return None
    try:
        return None if 0 <= float(age) <= _OLDEST_YEARS else f"age {age!r} is not one of a patient"
    except ValueError:
        return f"age {age!r} is not a number"


def _picture(collection: str, row: dict[str, str], file: Path) -> Picture:
    text = {name: "" if value.lower() in _UNKNOWN else value for name, value in row.items()}
    return Picture(
        collection=collection,
        image_id=row["image_id"],
        lesion_id=f"{collection}/{row.get('lesion_id') or row['image_id']}",
        dx=row["dx"],
        file=file,
        age=float(text["age"]) if text.get("age") else None,
        sex=text.get("sex", ""),
        localization=text.get("localization", ""),
        skin_tone=text.get("skin_tone", ""),
    )


def _picture_files(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Picture files by image id: those of the HAM10000 parts, else of `images/`, else of the folder itself."""
    parts = sorted(p for p in folder.glob("HAM10000_images_part_*") if p.is_dir())
    places = parts or [folder / "images" if (folder / "images").is_dir() else folder]
    files: dict[str, Path] = {}
    duplicates = []
    for file in sorted(file for place in places for file in place.iterdir()):
        if file.suffix.lower() not in _SUFFIXES or file.name.startswith("."):  # macOS leaves ._ISIC_0024306.jpg
            continue
        if file.stem in files:
            duplicates.append(f"{file.stem}: two files, {files[file.stem].name} and {file.parent.name}/{file.name}")
        files[file.stem] = file
    return files, duplicates


def _contradicting_lesions(pictures: Iterable[Picture]) -> list[str]:
    """A lesion with two diagnoses cannot be trained on."""
    diagnoses: dict[str, set[str]] = defaultdict(set)
    for picture in pictures:
        diagnoses[picture.lesion_id].add(picture.dx)
    return [
        f"{lesion}: pictures of one lesion with diagnoses {sorted(dx)}"
        for lesion, dx in diagnoses.items()
        if len(dx) > 1
    ]
