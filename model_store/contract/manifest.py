"""The manifest of a model version: everything the service must know and may not guess. No defaults, nothing extra.

`manifest.json` lists every other file of the version with its sha256; the sha256 of `manifest.json` itself is the
version's digest, so one string names graph, preprocessing, threshold, golden vectors and evaluation together.
`manifest.sig` alone is not listed: it signs the manifest.
"""

import hashlib
import re
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from model_store.contract.certainty import CertaintyMeasure
from model_store.contract.preprocessing import Preprocessing
from model_store.contract.quality import QualityLimits
from model_store.contract.strict_json import StrictJSONError, parse_strictly
from model_store.lesions import lesions

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
SCHEMA_VERSION = 2
MANIFEST_LIMIT_BYTES = 1_000_000
FILE_LIMIT_BYTES = 2_000_000_000  # what one protobuf message, and so an ONNX file, can hold
VERSION_LIMIT_BYTES = 4_000_000_000
FILES_LIMIT = 1000

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)  # not files on every system

VariantName = Literal["fp32", "int8"]
ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
VersionNumber = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,8}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Graph(_Part):
    """Tensor names of the ONNX graph, the same in all variants.

    `input` uint8 [N, H, W, 3] RGB gives, in float32, `probabilities` [N, classes]; `class_maps` [N, classes, h, w],
    what each cell adds to a class's logit; `embedding` [N, components]; `in_distribution` [N], a score in [0, 1].
    """

    input: str
    probabilities: str
    class_maps: str
    embedding: str
    in_distribution: str


class Variant(_Part):
    """The graph in one number format, and what that costs against fp32 on validation pictures.

    `probability_shift_p99`: of the largest change of a probability per picture, the 99th percentile.
    """

    file: str
    probability_shift_p99: float = Field(ge=0, le=1)
    balanced_accuracy_loss: float = Field(ge=-1, le=1)


class Calibration(_Part):
    """Part of the graph; written here to be read. With z = logits / temperature the probabilities are

    (1 - prior_weight) * softmax(z) + prior_weight * softmax(z + prior_share * log prior).

    `reference_prevalence` is the share of malignant lesions that the probabilities are right for.
    """

    temperature: float = Field(gt=0)
    prior_share: float = Field(ge=0, le=2)
    prior_weight: float = Field(default=1.0, ge=0, le=1)  # versions from before there was one have no mixture
    prior: dict[str, float]
    reference_prevalence: float = Field(gt=0, lt=1)


class Malignancy(_Part):
    """Operating point: at or above `threshold` (probability) the answer says so; chosen on validation.

    `sensitivity` and `specificity` are what it gives on the test part of the natural mix.
    """

    threshold: float = Field(gt=0, lt=1)
    target_sensitivity: float = Field(gt=0, lt=1)
    sensitivity: float = Field(ge=0, le=1)
    specificity: float = Field(ge=0, le=1)


class Certainty(_Part):
    """Below `threshold` an answer is uncertain; `coverage` is the share of validation pictures at or above it.

    `class_weights`, one for each of the manifest's `classes`, belong to the measure `weighted_probability`.
    """

    measure: CertaintyMeasure
    class_weights: tuple[Annotated[float, Field(gt=0, le=1)], ...] = ()
    threshold: float = Field(ge=0, le=1)
    coverage: float = Field(ge=0, le=1)


class InDistribution(_Part):
    """Scores below `refuse_below` get no diagnosis; below `warn_below` the answer says that the picture is unusual."""

    refuse_below: float = Field(ge=0, le=1)
    warn_below: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> "InDistribution":
        if self.refuse_below > self.warn_below:
            raise ValueError("refuse_below lies above warn_below")
        return self


class Reference(_Part):
    """Statistics of the training data, for alarms when what comes in drifts away from it."""

    file: str


class Golden(_Part):
    """Pictures with their expected tensors and answers; a larger difference is a load error of the variant."""

    file: str
    tolerance: dict[VariantName, Annotated[float, Field(gt=0, le=0.1)]]


class Provenance(_Part):
    """Where the version comes from; enough to train it again."""

    commit: str
    config_digest: Digest
    data_digest: Digest
    split_digest: Digest
    seed: int
    packages: dict[str, str]


class StoredFile(_Part):
    """Integrity of one file."""

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: int = Field(ge=0, le=FILE_LIMIT_BYTES)


class Manifest(_Part):
    """One immutable version of one model."""

    schema_version: Literal[2]
    name: ModelName
    version: VersionNumber
    created_at: datetime
    licence: str
    classes: tuple[str, ...] = Field(min_length=2)
    graph: Graph
    variants: dict[VariantName, Variant]
    preprocessing: Preprocessing
    calibration: Calibration
    malignancy: Malignancy
    certainty: Certainty
    in_distribution: InDistribution
    quality: QualityLimits
    reference: Reference
    golden: Golden
    provenance: Provenance
    files: dict[str, StoredFile]

    @field_validator("classes")
    @classmethod
    def _known_once(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        unknown = set(classes) - set(lesions())
        if unknown or len(set(classes)) != len(classes):
            raise ValueError(f"unknown or repeated classes: {sorted(unknown) or list(classes)}")
        return classes

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, StoredFile]) -> dict[str, StoredFile]:
        for name in files:
            _check_file_name(name)
        # What differs in case alone is one file on some systems; a file cannot be a folder too.
        folded = [name.casefold() for name in files]
        folders = {str(parent) for name in folded for parent in PurePosixPath(name).parents}
        if len(set(folded)) != len(folded) or folders & set(folded):
            raise ValueError("two file names are the same, or one is a folder of another, where case does not count")
        if len(files) > FILES_LIMIT or sum(file.size_bytes for file in files.values()) > VERSION_LIMIT_BYTES:
            raise ValueError(f"more than {FILES_LIMIT} files or {VERSION_LIMIT_BYTES} bytes")
        return files

    @field_validator("variants")
    @classmethod
    def _compared_with_fp32(cls, variants: dict[VariantName, Variant]) -> dict[VariantName, Variant]:
        plain = variants.get("fp32")
        if plain is None or plain.probability_shift_p99 or plain.balanced_accuracy_loss:
            raise ValueError("fp32 must be there, and differs in nothing from itself")
        return variants

    @model_validator(mode="after")
    def _consistent(self) -> "Manifest":
        named = [variant.file for variant in self.variants.values()]
        for name in (*named, self.golden.file, self.reference.file):
            if name not in self.files:
                raise ValueError(f"{name} is named but not listed under files")
        if len(set(named)) != len(named):
            raise ValueError("two variants name the same file")
        if set(self.golden.tolerance) != set(self.variants):
            raise ValueError("golden.tolerance must name each variant once")
        if set(self.calibration.prior) != set(self.classes):
            raise ValueError("calibration.prior must name each class once")
        if len(self.certainty.class_weights) not in (0, len(self.classes)):
            raise ValueError("certainty.class_weights must be as many as classes")
        return self

    @property
    def malignant(self) -> tuple[bool, ...]:
        """Per class, in the order of `classes`."""
        return tuple(lesions()[code].malignant for code in self.classes)


def _check_file_name(name: str) -> None:
    parts = name.split("/")
    if len(parts) > 8 or not all(_FILE_NAME.fullmatch(part) and not _DEVICES.fullmatch(part) for part in parts):
        raise ValueError(f"file name {name[:100]!r} does not stay inside the version on every system")
    if name.casefold() in (MANIFEST, SIGNATURE):
        raise ValueError(f"{name} cannot list itself or its signature")


def parse_manifest(raw: bytes) -> Manifest:
    """Untrusted bytes -> a manifest of this release's schema. Raises ValueError, one line that says what is wrong."""
    try:
        found = parse_strictly(raw, MANIFEST_LIMIT_BYTES)
    except StrictJSONError as error:
        raise ValueError(f"the manifest is not acceptable JSON: {error}") from error
    schema = found.get("schema_version") if isinstance(found, dict) else None
    if type(schema) is int and schema < SCHEMA_VERSION:
        raise ValueError(
            f"the manifest has schema {schema} and this release reads {SCHEMA_VERSION}: publish it anew with this "
            "release's training job, or serve it with the release that made it"
        )
    if type(schema) is int and schema > SCHEMA_VERSION:
        raise ValueError(
            f"the manifest has schema {schema} and this release reads {SCHEMA_VERSION}: install a newer release"
        )
    try:
        return Manifest.model_validate_json(raw, strict=True)
    except ValidationError as error:
        raise ValueError(f"the manifest is not valid: {first_fault(error)}") from error


def first_fault(error: ValidationError) -> str:
    """Where and what, of the first of the faults: one line, whatever stands in the data."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(str(part)[:100] for part in first["loc"])
    return " ".join(f"{where}: {first['msg']}"[:500].split())


def to_bytes(manifest: Manifest) -> bytes:
    """The bytes that are stored and that the digest is taken of."""
    return manifest.model_dump_json(indent=2).encode() + b"\n"


def digest_of(manifest_bytes: bytes) -> str:
    """The version's digest, `sha256:...`."""
    return "sha256:" + hashlib.sha256(manifest_bytes).hexdigest()
