"""The format specification says what the code does."""

import re
from pathlib import Path

import pytest

from model_store import cache, gate, graph_check, signatures, storage, store
from model_store.aliases import AliasTable, Move
from model_store.contract import golden
from model_store.contract import manifest as contract
from model_store.contract.manifest import Manifest
from model_store.contract.preprocessing import Preprocessing
from model_store.contract.quality import QualityLimits

TEXT = (Path(store.__file__).parent / "README.md").read_text(encoding="utf-8")
PARTS = (
    contract.Graph,
    contract.Variant,
    contract.Calibration,
    contract.Malignancy,
    contract.Certainty,
    contract.InDistribution,
    contract.Provenance,
    contract.StoredFile,
    contract.Golden,
    Preprocessing,
    QualityLimits,
    AliasTable,
    Move,
    signatures.Signature,
)


def test_every_field_of_the_manifest_has_a_line() -> None:
    """Each field of the manifest begins a row of its table."""
    rows = " ".join(re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", TEXT, re.MULTILINE))
    assert [name for name in Manifest.model_fields if f"`{name}`" not in rows] == []


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_field_of_a_part_is_named(part: type) -> None:
    """No field goes unexplained."""
    fields = part.model_fields  # type: ignore[attr-defined]
    assert [name for name in fields if f"`{name}`" not in TEXT and f'"{name}"' not in TEXT] == []


@pytest.mark.parametrize(
    "limit",
    [
        contract.MANIFEST_LIMIT_BYTES,
        contract.FILE_LIMIT_BYTES,
        contract.VERSION_LIMIT_BYTES,
        signatures.SIGNATURE_LIMIT_BYTES,
        storage.RECORD_LIMIT_BYTES,
        graph_check.GRAPH_LIMIT_BYTES,
        graph_check.NUMBERS_LIMIT,
        golden.GOLDEN_LIMIT_BYTES,
    ],
)
def test_every_limit_is_written_down(limit: int) -> None:
    """With its number."""
    assert f"{limit:,}" in TEXT


def test_the_gate_reads_what_the_outline_names() -> None:
    """Every last name of a figure in gate.toml stands in the specification."""
    names = {line.figure.removesuffix(".value").removesuffix(".low").split(".")[-1] for line in gate.read_gate().lines}
    assert [name for name in sorted(names - {"difference"}) if f"{name}`" not in TEXT] == []


def test_the_hour_is_an_hour() -> None:
    """What is abandoned on S3 is so after the time that is written; the cache has a limit."""
    assert storage.ABANDONED_AFTER_SECONDS == 3600
    assert cache.CACHE_LIMIT_BYTES > 0
