"""Public request and response bodies. Others build against them: change only by adding."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True)


class ServingModel(_Body):
    """The version that gave an answer."""

    name: str = Field(examples=["lesion7"])
    version: str = Field(examples=["1"])
    digest: str = Field(description="sha256 of the version's manifest, which covers every file of it")


class Diagnosis(_Body):
    """One of the two most probable diagnoses."""

    code: str = Field(examples=["mel"])
    name: str = Field(examples=["Melanoma"])
    probability: float = Field(ge=0, le=1, examples=[0.61])
    malignant: bool


class MalignancyAnswer(_Body):
    """Probability that the lesion is akiec, bcc or mel, and the operating point chosen on validation."""

    probability: float = Field(ge=0, le=1, examples=[0.64])
    threshold: float = Field(ge=0, le=1, examples=[0.22])
    above_threshold: bool


class Timing(_Body):
    """Milliseconds; `total` runs from the complete request body to the finished answer."""

    decode: float
    preprocess: float
    queue: float
    inference: float
    total: float


class Prediction(_Body):
    """The answer to one picture. Preliminary: a doctor decides."""

    request_id: str
    model: ServingModel
    diagnoses: tuple[Diagnosis, Diagnosis] = Field(description="the two most probable, best first")
    probabilities: dict[str, float] = Field(description="all classes; calibrated, they sum to 1")
    malignancy: MalignancyAnswer
    warnings: list[str] = Field(description="what makes this answer less reliable, in plain words")
    timing_ms: Timing


class Problem(BaseModel):
    """An error, RFC 9457 `application/problem+json`."""

    model_config = ConfigDict(frozen=True)

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str = Field(description="stable, for programs", examples=["invalid_image"])
    request_id: str


class LesionClass(_Body):
    """One class that the model knows."""

    code: str
    name: str
    description: str
    malignant: bool


class ModelSummary(_Body):
    """A version in the store, and whether it serves."""

    name: str
    version: str
    digest: str
    status: Literal["serving", "available"]
    created_at: datetime
    classes: list[LesionClass]
    malignancy_threshold: float


class ModelList(_Body):
    """All versions of the served model, newest first."""

    models: list[ModelSummary]


class ModelDetail(_Body):
    """A version's manifest and its model card."""

    digest: str
    status: Literal["serving", "available"]
    manifest: dict[str, Any]
    model_card: str = Field(description="Markdown")


class Health(_Body):
    """State of the process or of its readiness."""

    status: Literal["ok", "ready", "not_ready", "draining"]
    model: ServingModel | None = None
