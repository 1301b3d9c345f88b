"""The manifest of a model version: everything the service must know and may not guess. No defaults, nothing extra.

`manifest.json` lists every other file of the version with its sha256; the sha256 of `manifest.json` itself is the
version's digest, so one string names graph, preprocessing, threshold, golden vectors and evaluation together.
"""

import hashlib
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from model_store.contract.certainty import CertaintyMeasure
from model_store.contract.preprocessing import Preprocessing
from model_store.contract.quality import QualityLimits
from model_store.lesions import lesions

MANIFEST = "manifest.json"
SCHEMA_VERSION = 2

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
    """softmax(logits / temperature + prior_share * log prior), part of the graph; written here to be read.

    `reference_prevalence` is the share of malignant lesions that the probabilities are right for.
    """

    temperature: float = Field(gt=0)
    prior_share: float = Field(ge=0, le=1)
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
    """Below `threshold` an answer is uncertain; `coverage` is the share of validation pictures at or above it."""

    measure: CertaintyMeasure
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
    size_bytes: int = Field(ge=0)


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
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\\" in name or str(path) != name or name == MANIFEST:
                raise ValueError(f"file name {name!r} does not stay inside the version")
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
        return self

    @property
    def malignant(self) -> tuple[bool, ...]:
        """Per class, in the order of `classes`."""
        return tuple(lesions()[code].malignant for code in self.classes)


def to_bytes(manifest: Manifest) -> bytes:
    """The bytes that are stored and that the digest is taken of."""
    return manifest.model_dump_json(indent=2).encode() + b"\n"


def digest_of(manifest_bytes: bytes) -> str:
    """The version's digest, `sha256:...`."""
    return "sha256:" + hashlib.sha256(manifest_bytes).hexdigest()
