"""Collections are read as published, and everything wrong with them is said at once."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.builders import data_of, hospital_folder, picture, save_picture
from training.config import Collection, Data
from training.data import (
    CLASSES,
    Picture,
    data_digest,
    load_pictures,
    read_collections,
    split_by_lesion,
    split_digest,
    write_split,
)
from training.errors import DataError

CLINIC = Collection(name="clinic", path="clinic")
PUBLISHED_HEADER = "lesion_id,image_id,dx,dx_type,age,sex,localization,dataset"


def published_archive(folder: Path, metadata: str, delimiter: str = ",") -> Path:
    """HAM10000 as the Harvard Dataverse serves it: two parts of 600 x 450 and the table with its `dataset` column."""
    rows = [
        "HAM_0000118,ISIC_0027419,bkl,histo,80.0,male,scalp,vidir_modern",
        "HAM_0000118,ISIC_0025030,bkl,histo,80.0,male,scalp,vidir_modern",
        "HAM_0001466,ISIC_0031633,nv,follow_up,,unknown,unknown,rosendahl",
    ]
    for part, image_id in (("1", "ISIC_0027419"), ("1", "ISIC_0025030"), ("2", "ISIC_0031633")):
        place = folder / f"HAM10000_images_part_{part}"
        place.mkdir(parents=True, exist_ok=True)
        save_picture(place / f"{image_id}.jpg", 600, 450)
    text = "\n".join([PUBLISHED_HEADER, *rows]) + "\n"
    (folder / metadata).write_text(text.replace(",", delimiter))
    return folder


def read(root: Path, *collections: Collection) -> tuple[Picture, ...]:
    return read_collections(data_of(*(collections or (CLINIC,))), root)


@pytest.mark.parametrize(
    ("metadata", "delimiter"),
    [
        ("HAM10000_metadata.csv", ","),
        ("HAM10000_metadata.tab", "\t"),
        ("HAM10000_metadata", ","),
        ("HAM10000_metadata", "\t"),
    ],
)
def test_published_archive_is_read_as_it_comes(tmp_path: Path, metadata: str, delimiter: str) -> None:
    """The published archive is read with both parts, under every name and delimiter its table is served with."""
    published_archive(tmp_path / "ham10000", metadata, delimiter)
    pictures = read(tmp_path, Collection(name="ham10000", path="ham10000"))
    assert [(p.image_id, p.dx, p.age) for p in pictures] == [
        ("ISIC_0025030", "bkl", 80.0),
        ("ISIC_0027419", "bkl", 80.0),
        ("ISIC_0031633", "nv", None),
    ]
    assert pictures[0].lesion_id == pictures[1].lesion_id == "ham10000/HAM_0000118"
    assert (pictures[2].sex, pictures[2].localization) == ("", "")


def test_resource_forks_of_macos_are_not_pictures(tmp_path: Path) -> None:
    """What macOS leaves beside unpacked pictures is passed over."""
    folder = published_archive(tmp_path / "ham10000", "HAM10000_metadata.csv")
    (folder / "HAM10000_images_part_1" / "._ISIC_0027419.jpg").write_bytes(b"fork")
    assert len(read(tmp_path, Collection(name="ham10000", path="ham10000"))) == 3


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_hospital_folder_needs_only_two_columns(tmp_path: Path, delimiter: str) -> None:
    """A hospital's own folder needs image_id and dx; a picture without a lesion_id is a lesion of its own."""
    hospital_folder(tmp_path / "clinic", [{"image_id": "a", "dx": "nv"}, {"image_id": "b", "dx": "mel"}], delimiter)
    assert [(p.image_id, p.lesion_id) for p in read(tmp_path)] == [("a", "clinic/a"), ("b", "clinic/b")]


def test_unknown_age_and_sex_are_no_problem(tmp_path: Path) -> None:
    """Words for "not known" count as empty."""
    hospital_folder(tmp_path / "clinic", [{"image_id": "a", "dx": "nv", "age": "unknown", "sex": "NA"}])
    (only,) = read(tmp_path)
    assert (only.age, only.sex) == (None, "")


def test_ignored_diagnoses_are_left_out(tmp_path: Path) -> None:
    """A diagnosis named in ignore_dx is skipped, without its picture being missed."""
    hospital_folder(tmp_path / "clinic", [{"image_id": "a", "dx": "nv"}, {"image_id": "b", "dx": "other"}])
    ignoring = Collection(name="clinic", path="clinic", ignore_dx=("other",))
    assert [p.image_id for p in read(tmp_path, ignoring)] == ["a"]


def broken_folder(root: Path) -> None:
    """A folder with one problem of each kind, and one good picture."""
    rows = [
        {"image_id": "good", "dx": "nv", "lesion_id": "l0", "age": "40"},
        {"image_id": "missing", "dx": "nv", "lesion_id": "l1", "age": ""},
        {"image_id": "truncated", "dx": "mel", "lesion_id": "l2", "age": ""},
        {"image_id": "undiagnosed", "dx": "", "lesion_id": "l3", "age": ""},
        {"image_id": "strange", "dx": "wart", "lesion_id": "l4", "age": ""},
        {"image_id": "twice", "dx": "nv", "lesion_id": "l5", "age": ""},
        {"image_id": "twice", "dx": "nv", "lesion_id": "l5", "age": ""},
        {"image_id": "says_nv", "dx": "nv", "lesion_id": "l6", "age": ""},
        {"image_id": "says_mel", "dx": "mel", "lesion_id": "l6", "age": ""},
        {"image_id": "old", "dx": "nv", "lesion_id": "l7", "age": "young"},
        {"image_id": "older", "dx": "nv", "lesion_id": "l8", "age": "-4"},
    ]
    images = hospital_folder(root / "clinic", rows) / "images"
    (images / "missing.jpg").unlink()
    (images / "truncated.jpg").write_bytes((images / "truncated.jpg").read_bytes()[:400])
    save_picture(images / "unlisted.jpg")
    save_picture(images / "good.png")


@pytest.mark.parametrize(
    "expected",
    [
        "missing: no picture file",
        "truncated: cannot be read",
        "undiagnosed: no diagnosis",
        "unlisted: picture without a row",
        "strange: unknown class 'wart' (known: akiec, bcc, bkl, df, mel, nv, vasc)",
        "twice: listed 2 times",
        "clinic/l6: pictures of one lesion with diagnoses ['mel', 'nv']",
        "old: age 'young' is not a number",
        "older: age '-4' is not one of a patient",
        "good: two files",
    ],
)
def test_every_problem_stands_in_one_error(tmp_path: Path, expected: str) -> None:
    """Problems of every kind are found together, so that one round of repairs is enough."""
    broken_folder(tmp_path)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert any(expected in problem for problem in caught.value.problems), caught.value
    assert str(tmp_path) not in str(caught.value)


def test_all_unreadable_pictures_are_listed(tmp_path: Path) -> None:
    """Where only the files are damaged, loading names each of them."""
    rows = [{"image_id": name, "dx": "nv"} for name in ("a", "b", "c")]
    images = hospital_folder(tmp_path / "clinic", rows) / "images"
    (images / "a.jpg").write_bytes(b"no picture")
    (images / "c.jpg").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        load_pictures(read(tmp_path), data_of(CLINIC))
    assert [problem.split(":")[1].strip() for problem in caught.value.problems] == ["a", "c"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("image_id,label\n", "has no column dx"),
        ("", "has no column"),
        ("image_id,dx\nKr\xf6te,nv\n", "is not UTF-8 text"),
    ],
)
def test_unusable_metadata_is_one_sentence(tmp_path: Path, content: str, expected: str) -> None:
    """A table without its columns or in another encoding is named, not guessed at."""
    hospital_folder(tmp_path / "clinic", [])
    (tmp_path / "clinic" / "metadata.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=expected):
        read(tmp_path)


def test_missing_folder_and_metadata_are_named(tmp_path: Path) -> None:
    """Two wrong collections give two lines."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        read(tmp_path, Collection(name="gone", path="gone"), Collection(name="empty", path="empty"))
    assert len(caught.value.problems) == 2


def test_loaded_pictures_carry_their_true_aspect(tmp_path: Path) -> None:
    """Pictures come squashed to a square; the aspect beside them is the file's, or the one configured for copies."""
    hospital_folder(tmp_path / "clinic", [{"image_id": "a", "dx": "nv"}])
    stretched = Collection(name="clinic", path="clinic", aspect=1.5)
    own = load_pictures(read(tmp_path), data_of(CLINIC))
    fixed = load_pictures(read(tmp_path), data_of(stretched))
    assert own.pixels.shape == (1, 32, 32, 3)
    assert own.aspects[0] == pytest.approx(4 / 3)
    assert fixed.aspects[0] == pytest.approx(1.5)


def test_data_digest_follows_label_and_pixels(tmp_path: Path) -> None:
    """The digest changes with a diagnosis and with a pixel, and with nothing else."""
    hospital_folder(tmp_path / "clinic", [{"image_id": "a", "dx": "nv", "age": "40"}])
    first = data_digest(load_pictures(read(tmp_path), data_of(CLINIC)))
    save_picture(tmp_path / "clinic" / "images" / "a.jpg", 44, 30)
    pixels = data_digest(load_pictures(read(tmp_path), data_of(CLINIC)))
    (tmp_path / "clinic" / "metadata.csv").write_text("image_id,dx\na,mel\n")
    label = data_digest(load_pictures(read(tmp_path), data_of(CLINIC)))
    (tmp_path / "clinic" / "metadata.csv").write_text("image_id,dx,age\na,mel,41\n")
    assert len({first, pixels, label}) == 3
    assert data_digest(load_pictures(read(tmp_path), data_of(CLINIC))) == label


lesion_tables = st.lists(
    st.tuples(st.sampled_from(CLASSES), st.sampled_from(["one", "two"]), st.integers(1, 4)), min_size=1, max_size=60
)


def pictures_of(lesions: list[tuple[str, str, int]]) -> list[Picture]:
    """`lesions` are (dx, collection, number of pictures)."""
    return [
        picture(f"i{number}_{image}", dx, f"l{number}", collection)
        for number, (dx, collection, images) in enumerate(lesions)
        for image in range(images)
    ]


SPLIT_DATA: Data = data_of(Collection(name="one", path="one"), Collection(name="two", path="two"))


@given(lesion_tables, st.integers(0, 5))
def test_no_lesion_stands_on_two_sides(lesions: list[tuple[str, str, int]], seed: int) -> None:
    """Whatever the pictures and the seed: all pictures of a lesion are in one part, and every picture is in one."""
    pictures = pictures_of(lesions)
    parts = split_by_lesion(pictures, SPLIT_DATA, seed)
    assert set(parts) == {p.image_id for p in pictures}
    sides = {(p.lesion_id, parts[p.image_id]) for p in pictures}
    assert len(sides) == len(lesions)


@given(st.lists(st.integers(3, 40), min_size=1, max_size=3))
def test_every_class_with_three_lesions_is_in_every_part(counts: list[int]) -> None:
    """Rare classes can be trained on, chosen with and judged."""
    pictures = pictures_of([(CLASSES[i], "one", 1) for i, count in enumerate(counts) for _ in range(count)])
    parts = split_by_lesion(pictures, SPLIT_DATA, 0)
    for index in range(len(counts)):
        found = {parts[p.image_id] for p in pictures if p.dx == CLASSES[index]}
        assert found == {"train", "validation", "test"}


def test_shares_hold_in_each_class() -> None:
    """Validation and test hold the configured shares of the lesions of every class."""
    parts = split_by_lesion(pictures_of([("nv", "one", 1)] * 200 + [("mel", "one", 1)] * 40), SPLIT_DATA, 3)
    counted = np.unique(list(parts.values()), return_counts=True)
    assert dict(zip(*counted, strict=True)) == {"test": 36, "train": 180, "validation": 24}


def test_same_seed_same_split() -> None:
    """The split follows from the seed, whatever the order of the pictures."""
    pictures = pictures_of([("nv", "one", 2)] * 30)
    digest = split_digest(split_by_lesion(pictures, SPLIT_DATA, 1))
    assert split_digest(split_by_lesion(pictures[::-1], SPLIT_DATA, 1)) == digest
    assert split_digest(split_by_lesion(pictures, SPLIT_DATA, 2)) != digest


def test_split_is_written_as_a_table(tmp_path: Path) -> None:
    """The split file names every picture with its part."""
    write_split([picture("a", "nv", "l")], {"a": "test"}, tmp_path / "split.csv")
    assert (tmp_path / "split.csv").read_text() == (
        "collection,image_id,lesion_id,dx,part\nclinic,a,clinic/l,nv,test\n"
    )


def test_a_collection_that_is_left_out_is_only_tested_on() -> None:
    """None of its lesions is trained or chosen on; the others are split as ever."""
    pictures = [
        picture(f"{name}{n}", CLASSES[n % 2], collection=name) for name in ("clinic", "elsewhere") for n in range(40)
    ]
    collections = (CLINIC, Collection(name="elsewhere", path="elsewhere"))
    parts = split_by_lesion(pictures, data_of(*collections, left_out=("elsewhere",)), seed=1)
    assert {parts[p.image_id] for p in pictures if p.collection == "elsewhere"} == {"test"}
    kept = split_by_lesion(pictures, data_of(*collections), seed=1)
    assert {p.image_id: kept[p.image_id] for p in pictures if p.collection == "clinic"} == {
        p.image_id: parts[p.image_id] for p in pictures if p.collection == "clinic"
    }
