"""The manifest of a model version: everything the service must know and may not guess. No defaults, nothing extra.

`manifest.json` lists every other file of the version with its sha256; the sha256 of `manifest.json` itself is the
version's digest, so one string names graph, preprocessing, threshold, golden vectors and evaluation together.
"""

import hashlib
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from model_store.contract.preprocessing import Preprocessing
from model_store.lesions import lesions

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1

ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
VersionNumber = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,8}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Graph(_Part):
    """The ONNX graph: uint8 [N, H, W, 3] RGB under `input` -> float32 [N, classes] under `probabilities`."""

    file: str
    input: str
    probabilities: str


class Malignancy(_Part):
    """Operating point: at or above `threshold` (probability) the answer says so; chosen on validation."""

    threshold: float = Field(gt=0, lt=1)
    target_sensitivity: float = Field(gt=0, lt=1)


class Calibration(_Part):
    """softmax(logits / temperature + prior_share * log prior), part of the graph; written here to be read."""

    temperature: float = Field(gt=0)
    prior_share: float = Field(ge=0, le=1)
    prior: dict[str, float]


class Golden(_Part):
    """Pictures with their expected tensors and probabilities; a larger difference is a load error."""

    file: str
    tolerance: float = Field(gt=0, le=0.01)


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

    schema_version: Literal[1]
    name: ModelName
    version: VersionNumber
    created_at: datetime
    licence: str
    classes: tuple[str, ...] = Field(min_length=2)
    graph: Graph
    preprocessing: Preprocessing
    calibration: Calibration
    malignancy: Malignancy
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

    @model_validator(mode="after")
    def _consistent(self) -> "Manifest":
        for name in (self.graph.file, self.golden.file):
            if name not in self.files:
                raise ValueError(f"{name} is named but not listed under files")
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
