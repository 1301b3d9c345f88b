"""Public request and response bodies. Others build against them: change only by adding."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from model_store.contract.manifest import VariantName

Decision = Literal["refer", "low_risk", "abstain"]
Reason = Literal["malignancy", "not_a_lesion", "poor_quality", "unfamiliar", "uncertain"]
QualityProblem = Literal["too_small", "too_dark", "overexposed", "uniform", "blurred"]


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True)


class ServingModel(_Body):
    """The version that gave an answer."""

    name: str = Field(examples=["lesion7"])
    version: str = Field(examples=["1"])
    digest: str = Field(description="sha256 of the version's manifest, which covers every file of it")
    variant: VariantName = Field(description="number format of the network that computed")


class Diagnosis(_Body):
    """One of the two most probable diagnoses."""

    code: str = Field(examples=["mel"])
    name: str = Field(examples=["Melanoma"])
    probability: float = Field(ge=0, le=1, examples=[0.61])
    malignant: bool


class MalignancyAnswer(_Body):
    """Probability that the lesion is akiec, bcc or mel, and the operating point chosen on validation.

    With a prevalence, probability and threshold are moved alike: `above_threshold` does not depend on it.
    """

    probability: float = Field(ge=0, le=1, examples=[0.64])
    threshold: float = Field(ge=0, le=1, examples=[0.22])
    above_threshold: bool
    prevalence: float | None = Field(description="share of malignant lesions that was asked for, if any")
    positive_predictive_value: float | None = Field(
        description="at that prevalence, the share of malignant lesions among all above the threshold"
    )
    negative_predictive_value: float | None = Field(
        description="at that prevalence, the share of benign lesions among all below the threshold"
    )


class QualityScores(_Body):
    """Measured on what the network sees; shares, brightness and contrast are in [0, 1]."""

    min_side_pixels: int = Field(description="shorter side of the picture as it was sent")
    sharpness: float = Field(description="log10 of the variance of the luma's Laplacian")
    brightness: float = Field(description="mean luma")
    dark_share: float
    bright_share: float
    contrast: float = Field(description="standard deviation of the luma")


class QualityAnswer(_Body):
    """Is the picture good enough to be judged?"""

    accepted: bool
    problems: list[QualityProblem]
    scores: QualityScores


class InDistributionAnswer(_Body):
    """Does the picture look like the dermatoscopic lesions that the network was trained on?"""

    accepted: bool
    score: float = Field(ge=0, le=1, description="higher is more like them")
    threshold: float = Field(ge=0, le=1, description="below it there is no diagnosis")


class Explanation(_Body):
    """Where the network found what speaks for one class."""

    code: str = Field(serialization_alias="class", examples=["mel"])
    overlay: str = Field(description="PNG with transparency as a data URI, to be laid over the upright picture")
    note: str


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
    decision: Decision = Field(description="`abstain`: the network cannot judge this picture; no all-clear either")
    reasons: list[Reason] = Field(description="why; empty for `low_risk`")
    diagnoses: list[Diagnosis] = Field(
        max_length=2, description="the two most probable, best first; none where the picture is clearly no lesion"
    )
    probabilities: dict[str, float] = Field(description="all classes; calibrated, they sum to 1")
    malignancy: MalignancyAnswer
    quality: QualityAnswer
    in_distribution: InDistributionAnswer
    explanation: Explanation | None = Field(description="only when asked for with `explain`")
    warnings: list[str] = Field(description="what makes this answer less reliable and what to do, in plain words")
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
    variants: list[VariantName] = Field(description="number formats that the version holds")
    serving_variant: VariantName | None = Field(description="the one that computes, where the version serves")


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
