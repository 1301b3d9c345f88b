"""The model store keeps whole, unchanged versions, whatever happens around it: in a directory and on S3."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from model_store.contract.manifest import MANIFEST
from model_store.errors import AliasError, DamagedVersionError, InvalidManifestError, NotInStoreError, StoreError
from model_store.store import SHIPPED, ModelStore
from tests.model_store.builders import FILES, FP32, INT8, fields
from tests.model_store.places import DirectoryPlace, Place


def visible(store: ModelStore) -> list[str]:
    """The versions, also of a model that nobody has heard of."""
    with suppress(NotInStoreError):
        return store.versions("lesion7")
    return []


def test_publish_numbers_versions_from_one(store: ModelStore) -> None:
    """Each publish makes the next version."""
    published = [store.publish(FILES, fields()).manifest.version for _ in range(3)]
    assert published == store.versions("lesion7") == ["1", "2", "3"]


def test_files_come_back_as_published(store: ModelStore, place: Place) -> None:
    """What is read is what was published, sub-folders included, also by who was not there."""
    store.publish(FILES, fields())
    for reader in (store, place.store()):
        opened = reader.verify("lesion7", "1")
        assert {name: opened.read(name) for name in FILES} == FILES


def test_digest_covers_every_file(store: ModelStore) -> None:
    """Two versions that differ in one file's content have different digests."""
    first = store.publish(FILES, fields())
    second = store.publish({**FILES, "plots/roc.png": b"other"}, fields())
    assert first.manifest.files != second.manifest.files
    assert first.digest != second.digest


def test_names_are_those_of_models(store: ModelStore) -> None:
    """Each published model is listed once."""
    for name in ("lesion7", "other-model"):
        store.publish(FILES, fields(name=name))
    assert store.names() == ["lesion7", "other-model"]


DAMAGES = {
    "changed": ("model.onnx", b"grapH", "does not match the manifest's sha256"),
    "cut": ("model.onnx", b"gra", "does not match the manifest's sha256"),
    "grown": ("model.onnx", b"graph and more", "larger than the 5 bytes"),
    "removed": ("model.onnx", None, "No such file"),
    "added": ("extra.txt", b"?", "files that the manifest does not list: \\['extra.txt'\\]"),
    "not JSON": (MANIFEST, b"{", "not acceptable JSON"),
    "no manifest": (MANIFEST, None, "manifest.json: No such file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_damage_is_found(store: ModelStore, place: Place, damage: str) -> None:
    """A file that is changed, cut, gone, added, or a wrong manifest: verify refuses the version and says why."""
    file, content, reason = DAMAGES[damage]
    store.publish(FILES, fields())
    if content is None:
        place.remove("1", file)
    else:
        place.write("1", file, content)
    with pytest.raises(DamagedVersionError, match=reason):
        place.store().verify("lesion7", "1")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": "7"}, "the manifest is of lesion7 version 7"),
        ({"name": "other"}, "the manifest is of other version 1"),
        ({"schema_version": 1}, "schema 1 and this release reads 2: publish it anew"),
        ({"schema_version": 99}, "schema 99 and this release reads 2: install a newer release"),
        ({"schema_version": "2"}, "schema_version: Input should be 2"),
        ({"classes": "mel"}, "classes"),
        ({"provenance": 7}, "provenance"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_a_wrong_manifest_is_told_in_one_line(directory: DirectoryPlace, change: dict[str, Any], reason: str) -> None:
    """Another version's, an older or newer schema's, a mistyped one: the message says which, and the way out."""
    store = directory.store()
    store.publish(FILES, fields())
    directory.write("1", MANIFEST, json.dumps(json.loads(directory.read("1", MANIFEST)) | change).encode())
    with pytest.raises(DamagedVersionError, match=reason) as refused:
        store.open("lesion7", "1")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": ("mel", "unheard-of")},
        {"classes": ("mel", "mel")},
        {"malignancy": fields()["malignancy"] | {"threshold": float("nan")}},
        {"certainty": fields()["certainty"] | {"class_weights": [0.5]}},
        {"certainty": fields()["certainty"] | {"class_weights": [0.5, 0.0]}},
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
def test_an_invalid_version_is_never_visible(directory: DirectoryPlace, wrong: dict[str, Any]) -> None:
    """Wrong fields are refused before anything appears in the store."""
    with pytest.raises(InvalidManifestError):
        directory.store().publish(FILES, fields(**wrong))
    assert visible(directory.store()) == []


def test_int8_is_optional(directory: DirectoryPlace) -> None:
    """A version whose int8 variant would lose too much has fp32 alone."""
    golden = {"file": "golden.npz", "tolerance": {"fp32": 0.001}}
    published = directory.store().publish(FILES, fields(variants={"fp32": FP32}, golden=golden))
    assert list(published.manifest.variants) == ["fp32"]


ESCAPES = ["../up", "/etc/passwd", "a\\b", "a//b", "./a", "a/../b", "", "a/", MANIFEST, "Manifest.JSON", "manifest.sig"]
DEVICES = ["NUL", "con.txt", "plots/COM1", ".hidden", "plots/.lock", "a b", "a\x00", "é", "a" * 101, "C:x"]
CASE_TRICKS = ["MODEL.onnx", "Plots/ROC.png", "plots", "model.onnx/inside"]


@pytest.mark.parametrize("name", ESCAPES + DEVICES + CASE_TRICKS)
def test_no_file_leaves_its_version(directory: DirectoryPlace, name: str) -> None:
    """File names that point elsewhere, or mean something else on another system, are refused."""
    with pytest.raises(InvalidManifestError):
        directory.store().publish({**FILES, name: b""}, fields())


@pytest.mark.parametrize("name", ["..", "../lesion7", "", "Lesion", "a/b", "lesion7\n", "lesion7\x00", "."])
def test_no_model_name_leaves_the_store(store: ModelStore, name: str) -> None:
    """Model names that are paths are refused, whatever is asked of the store."""
    store.publish(FILES, fields())
    for ask in (store.versions, store.aliases, lambda n: store.open(n, "1"), lambda n: store.verify(n, "1")):
        with pytest.raises(NotInStoreError):
            ask(name)


@pytest.mark.parametrize(
    "version", ["..", "01", "+1", " 1", "\N{ARABIC-INDIC DIGIT ONE}", "1/../1", "0", "-1", "9" * 40, "2"]
)
def test_no_version_leaves_its_model(store: ModelStore, version: str) -> None:
    """What is not exactly a published number or an alias is not in the store."""
    store.publish(FILES, fields())
    with pytest.raises(NotInStoreError):
        store.open("lesion7", version)


@pytest.mark.parametrize("target", ["/etc/hostname", "../../../secret", "model.onnx"])
def test_a_link_that_leaves_its_version_is_refused(directory: DirectoryPlace, target: str) -> None:
    """Even a link to the very bytes that the manifest lists is refused when they lie elsewhere; a circle too."""
    store = directory.store()
    store.publish(FILES, fields())
    (directory.root.parent / "secret").write_bytes(FILES["model.onnx"])
    directory.remove("1", "model.onnx")
    (directory.root / "lesion7" / "1" / "model.onnx").symlink_to(target)
    with pytest.raises(DamagedVersionError, match="leads out|circle|Too many levels"):
        store.verify("lesion7", "1")


def test_a_pipe_is_no_file(directory: DirectoryPlace) -> None:
    """A named pipe in place of a file is refused at once instead of being waited for."""
    import os

    store = directory.store()
    store.publish(FILES, fields())
    directory.remove("1", "model.onnx")
    os.mkfifo(directory.root / "lesion7" / "1" / "model.onnx")
    with pytest.raises(DamagedVersionError, match="not a regular file"):
        store.verify("lesion7", "1")


def test_promote_remembers_what_stood_before(store: ModelStore) -> None:
    """`previous` is where `production` was; rolling back swaps them, twice restores."""
    for _ in range(2):
        store.publish(FILES, fields())
    store.promote("lesion7", "1")
    assert store.promote("lesion7", "2") == {"production": "2", "previous": "1"}
    assert store.rollback("lesion7") == {"production": "1", "previous": "2"}
    assert store.rollback("lesion7") == {"production": "2", "previous": "1"}


def test_history_says_when_from_where_and_why(store: ModelStore) -> None:
    """Each move is recorded with its time, from, to, and for a forced one the reason and what had failed."""
    for _ in range(2):
        store.publish(FILES, fields())
    store.promote("lesion7", "1")
    store.promote("lesion7", "2", reason="the clinic asked", failed=["balanced accuracy"])
    store.rollback("lesion7")
    history = store.alias_table("lesion7").history
    assert [(m.action, m.from_version, m.to_version) for m in history] == [
        ("promote", None, "1"),
        ("promote", "1", "2"),
        ("rollback", "2", "1"),
    ]
    assert (history[1].reason, history[1].failed) == ("the clinic asked", ("balanced accuracy",))
    assert history[0].at <= history[1].at <= history[2].at


def test_the_first_form_of_the_aliases_is_still_read(directory: DirectoryPlace) -> None:
    """A plain table of alias and version is understood, and is written in the present form by the next move."""
    store = directory.store()
    for _ in range(2):
        store.publish(FILES, fields())
    (directory.root / "lesion7" / "aliases.json").write_text('{"production": "1"}')
    assert store.aliases("lesion7") == {"production": "1"}
    assert store.promote("lesion7", "2") == {"production": "2", "previous": "1"}


ALIAS_DAMAGES = [
    "{",
    "[]",
    '{"production": 1}',
    '{"production": "../1"}',
    '{"A": "1"}',
    '{"a": "1", "a": "2"}',
    "[" * 99,
]


@pytest.mark.parametrize("content", ALIAS_DAMAGES)
def test_a_damaged_alias_table_is_refused(directory: DirectoryPlace, content: str) -> None:
    """Anything but a table of aliases is an error, never a guess."""
    store = directory.store()
    store.publish(FILES, fields())
    (directory.root / "lesion7" / "aliases.json").write_text(content)
    with pytest.raises(DamagedVersionError, match="not a table of aliases"):
        store.aliases("lesion7")


def test_two_who_move_aliases_lose_nothing(store: ModelStore, place: Place) -> None:
    """Eight promotions at once, of eight aliases, all stand afterwards."""
    store.publish(FILES, fields())
    names = [f"clinic-{n}" for n in range(8)]
    stores = [place.store() for _ in names]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda pair: pair[0].promote("lesion7", "1", pair[1]), zip(stores, names, strict=True)))
    assert store.aliases("lesion7") == dict.fromkeys(names, "1")


def test_a_damaged_version_cannot_be_promoted(store: ModelStore, place: Place) -> None:
    """Aliases point at whole versions only."""
    store.publish(FILES, fields())
    place.write("1", "model.onnx", b"")
    with pytest.raises(DamagedVersionError):
        place.store().promote("lesion7", "1")
    assert store.aliases("lesion7") == {}


def test_rollback_without_a_previous_version_says_so(store: ModelStore) -> None:
    """There is nothing to roll back to after the first promotion."""
    store.publish(FILES, fields())
    store.promote("lesion7", "1")
    with pytest.raises(AliasError, match="no previous version"):
        store.rollback("lesion7")


def test_a_retired_version_is_gone_and_its_number_with_it(store: ModelStore, place: Place) -> None:
    """What was retired cannot be opened, leaves no file, and its number is never given to another version."""
    for _ in range(2):
        store.publish(FILES, fields())
    place.store().retire("lesion7", "2")
    assert store.versions("lesion7") == ["1"]
    with pytest.raises(NotInStoreError):
        store.open("lesion7", "2")
    assert len([file for file in place.everything() if file.endswith("model.onnx")]) == 1
    assert place.store().publish(FILES, fields()).manifest.version == "3"


def test_a_version_in_use_is_not_retired(store: ModelStore) -> None:
    """As long as an alias points at a version it stays."""
    store.publish(FILES, fields())
    store.promote("lesion7", "1", "candidate")
    with pytest.raises(AliasError, match="in use: candidate"):
        store.retire("lesion7", "1")
    store.verify("lesion7", "1")


def test_a_copy_is_the_same_version(directory: DirectoryPlace, store: ModelStore) -> None:
    """A version taken over from another store has its number, digest and signature; never over one that is there."""
    source = ModelStore(directory.root.parent / "source")
    source.publish(FILES, fields())
    original = source.publish({**FILES, "plots/roc.png": b"second"}, fields())
    assert store.copy(original, None).digest == original.digest
    assert store.versions("lesion7") == ["2"]
    with pytest.raises(InvalidManifestError, match="has a lesion7 2 already"):
        store.copy(original, None)


@pytest.mark.parametrize("url", ["s3://", "gs://bucket", "https://host/bucket", "s3://key@bucket/prefix"])
def test_other_urls_are_refused(url: str) -> None:
    """A store is a directory or s3://bucket/prefix; anything else is told so."""
    with pytest.raises(StoreError, match="is not a store"):
        ModelStore(url)


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
        assert sum(file.size_bytes for file in files) < 20_000_000
