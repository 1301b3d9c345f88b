"""Public request and response bodies. Others build against them: change only by adding."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from model_store.contract.manifest import VariantName

ModelStatus = Literal["serving", "loaded", "shadow", "available", "refused"]
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


class CertaintyAnswer(_Body):
    """Is the network sure enough of its first diagnosis?

    Of the most certain answers fewer are wrong: the model card has the curve.
    """

    accepted: bool
    score: float = Field(ge=0, le=1, description="higher is more certain; not a probability")
    threshold: float = Field(ge=0, le=1, description="below it the answer counts as uncertain")


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
    certainty: CertaintyAnswer
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
    """A version in the store, and what it does here.

    `serving` answers; `loaded` answers requests that name it; `shadow` runs behind the answers; `refused` did not pass
    a check; `available` is none of these.
    """

    name: str
    version: str
    digest: str
    status: ModelStatus
    created_at: datetime
    classes: list[LesionClass]
    malignancy_threshold: float
    variants: list[VariantName] = Field(description="number formats that the version holds")
    serving_variant: VariantName | None = Field(description="the one that computes, where the version is loaded")
    aliases: list[str] = Field(description="that point at it, as last seen")


class RefusedVersion(_Body):
    """A version that ought to be loaded, and why it is not."""

    version: str
    digest: str | None = Field(description="none where not even the manifest can be read")
    reason: str = Field(examples=["self_test"], description="stable, for programs")
    detail: str


class ModelList(_Body):
    """All versions of the served model that this release can read, newest first; and all that were refused."""

    models: list[ModelSummary]
    refused: list[RefusedVersion]


class ReloadReport(_Body):
    """What is loaded after the store was looked at."""

    serving: ServingModel
    loaded: list[ServingModel] = Field(description="beside it, answering requests that name them")
    shadow: ServingModel | None
    refused: list[RefusedVersion] = Field(description="others that were wanted")
    seconds: float = Field(description="from the call to the finished swap")


class ShadowDistance(_Body):
    """Largest difference of a probability, per picture: quantiles over the latest pictures."""

    p50: float
    p90: float
    p99: float
    max: float


class ShadowReport(_Body):
    """What the candidate would have answered, against what was answered. Shares are null before the first picture."""

    serving: ServingModel
    candidate: ServingModel
    since: datetime = Field(description="when the candidate began to be compared with this version")
    pictures: int = Field(description="that went through both")
    dropped: int = Field(description="of the share, for which there was no time")
    failed: int = Field(description="on which the candidate failed")
    same_first_diagnosis: float | None = Field(description="share of the pictures")
    same_first_diagnosis_low: float | None = Field(description="of its 95 % interval (Wilson)")
    same_first_diagnosis_high: float | None
    malignancy_flips: float | None = Field(description="share on which one lies at or above its threshold, one below")
    to_malignant: int = Field(description="flips of which the candidate says malignant")
    to_benign: int = Field(description="flips of which the candidate says benign: the dangerous ones, if it is wrong")
    probability_distance: ShadowDistance | None
    serving_mean_seconds: float | None = Field(description="of processor time in the network, for a picture")
    candidate_mean_seconds: float | None
    latency_p99_ratio: float | None = Field(description="the candidate's over the serving version's, in the network")


class ModelDetail(_Body):
    """A version's manifest and its model card."""

    digest: str
    status: ModelStatus
    manifest: dict[str, Any]
    model_card: str = Field(description="Markdown")


class EngineCandidate(_Body):
    """One way to run the network on this machine, as measured."""

    variant: VariantName
    threads_per_session: int = Field(description="threads that compute one batch in the network")
    workers: int = Field(description="batches at once")
    batch_size: int
    inference_seconds: float = Field(description="one batch in the network while all workers are busy")
    pictures_per_second: float = Field(description="of all workers together, decoding included")
    alone_seconds: float = Field(description="one picture while nothing else runs, decoding included")
    rounds: int = Field(description="how often it was measured, in turn with the others")


class EngineReport(_Body):
    """The engine that serves, and all that were measured against it."""

    model: ServingModel
    processor: str
    cores: int = Field(description="that the process may use")
    onnxruntime: str = Field(description="version of ONNX Runtime")
    variant: VariantName
    threads_per_session: int
    workers: int
    threads_alone: int = Field(description="threads that compute a picture in the network when there is no other work")
    inference_seconds: dict[int, float] = Field(description="by batch size")
    batching_gain: float = Field(
        description="pictures a second of the network in its best batch size, over those one by one"
    )
    pictures_per_second: float = Field(description="of all workers together, decoding included")
    cached: bool = Field(description="measured at an earlier start, of the same version on the same machine")
    quick: bool = Field(description="measured while another version served: on single pictures, roughly")
    set_by_hand: list[str] = Field(description="settings that left nothing to choose")
    refused: dict[VariantName, str] = Field(description="variants whose answers are wrong on this processor, and how")
    measured: list[EngineCandidate]


class Health(_Body):
    """State of the process or of its readiness."""

    status: Literal["ok", "ready", "not_ready", "draining"]
    model: ServingModel | None = None
    busy: bool | None = Field(default=None, description="true while predictions are refused because of load")
    store: str | None = Field(default=None, description="what is wrong with the model store; what is loaded goes on")
