"""Drawn pictures stand in for real ones: same layout, same every time, different for every class."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from tests.training.builders import data_of
from training.config import Collection, GeneratedPictures
from training.data import CLASSES, read_collections
from training.generate import draw_picture, golden_pictures, write_collection

SETTINGS = GeneratedPictures(lesions_per_class=3, width_pixels=48, height_pixels=36)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_collection_is_read_like_the_published_one(tmp_path: Path) -> None:
    """Two part folders and the metadata file, all seven classes, some lesions with several pictures."""
    write_collection(SETTINGS, 1, tmp_path)
    pictures = read_collections(data_of(Collection(name="generated", path=".")), tmp_path)
    assert {p.dx for p in pictures} == set(CLASSES)
    lesions = {p.lesion_id for p in pictures}
    assert len(lesions) == 21
    assert len(pictures) > len(lesions)
    assert {p.file.parent.name for p in pictures} == {"HAM10000_images_part_1", "HAM10000_images_part_2"}


def test_same_seed_same_files(tmp_path: Path) -> None:
    """Byte for byte."""
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_collection(SETTINGS, seed, tmp_path / folder)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b") != files_of(tmp_path / "c")


def test_classes_look_different() -> None:
    """The mean colour of the middle differs between classes, so that a small network can tell them apart."""
    middles = [draw_picture(code, 0, 96, 72)[24:48, 32:64].mean(axis=(0, 1)) for code in CLASSES]
    distances = [np.abs(a - b).max() for i, a in enumerate(middles) for b in middles[:i]]
    assert min(distances) > 8


def test_golden_pictures_cover_the_ways_through_decoding() -> None:
    """JPEG, PNG, WebP and TIFF; large, portrait, turned, transparent, grey, palette and 16-bit; under a megabyte."""
    pictures = golden_pictures()
    opened = [Image.open(io.BytesIO(picture)) for picture in pictures]
    assert sum(map(len, pictures)) < 1_000_000
    assert {image.format for image in opened} == {"JPEG", "PNG", "WEBP", "TIFF"}
    assert {image.mode for image in opened} == {"RGB", "RGBA", "L", "P", "I;16"}
    assert max(image.width * image.height for image in opened) == 1600 * 1200
    assert any(image.getexif().get(0x0112) == 6 for image in opened)
    assert golden_pictures() == pictures
