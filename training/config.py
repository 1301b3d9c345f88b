"""The training configuration: one TOML file, read once, unknown keys refused."""

import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.errors import ConfigError

ResizeMode = Literal["squash", "center_crop", "pad"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Collection(_Section):
    """One folder of pictures: the published HAM10000 archive, or a folder with a `metadata.csv`."""

    name: str
    path: str = Field(description="folder, relative to --data")
    aspect: float | None = Field(
        default=None,
        gt=0.2,
        lt=5,
        description="true width / height of every picture where the files are squashed copies; else each file's own",
    )
    ignore_dx: tuple[str, ...] = Field(
        default=(),
        description="diagnoses not to train on; any other unknown one is an error. The gate learns from their pictures",
    )
    close_ups: str | None = Field(
        default=None, description="folder, relative to `path`, of photographs that are not dermatoscopic; for the gate"
    )


class GeneratedPictures(_Section):
    """Draw a synthetic collection in the layout of HAM10000 instead of reading one (for tests)."""

    lesions_per_class: int = Field(gt=0)
    width_pixels: int = Field(gt=0)
    height_pixels: int = Field(gt=0)


class Data(_Section):
    """What is read and how it is split; shares are of the lesions of each class and collection."""

    collections: tuple[Collection, ...] = Field(min_length=1)
    generated: GeneratedPictures | None = None
    cache_pixels: int = Field(gt=31, description="side of the squashed copies kept in memory for training")
    validation_share: float = Field(gt=0, lt=0.5)
    test_share: float = Field(gt=0, lt=0.5)
    left_out: tuple[str, ...] = Field(
        default=(), description="collections that are only tested on: how the network does at a clinic it never saw"
    )
    natural_mix: str = Field(description="the collection whose class mix stands for the clinic's")

    @model_validator(mode="after")
    def _natural_mix_is_a_collection(self) -> "Data":
        names = {collection.name for collection in self.collections}
        if self.natural_mix not in names - set(self.left_out):
            raise ValueError(f"natural_mix {self.natural_mix!r} names none of the collections that are trained on")
        if unknown := set(self.left_out) - names:
            raise ValueError(f"left_out names {', '.join(sorted(unknown))}, which is none of the collections")
        return self


class Network(_Section):
    """EfficientNet-Lite variant and its regularisation."""

    variant: Literal["lite0", "lite1", "lite2"]
    dropout: float = Field(ge=0, lt=1)
    drop_path: float = Field(ge=0, lt=1)
    frozen_norms: bool = Field(default=False, description="keep the statistics of every BatchNorm as they are")
    frozen_blocks: int = Field(
        default=0, ge=0, le=10, description="first blocks that learn no more; wants frozen_norms"
    )

    @model_validator(mode="after")
    def _frozen_blocks_have_frozen_norms(self) -> "Network":
        if self.frozen_blocks and not self.frozen_norms:
            raise ValueError("frozen_blocks needs frozen_norms = true")
        return self


class Augmentation(_Section):
    """Ranges of the random changes; see `training/augment.py` for what each does."""

    zoom: tuple[float, float] = Field(description="share of the frame's side that stays visible: lowest, highest")
    rotation_degrees: float = Field(ge=0, le=180)
    aspect: tuple[float, float]
    square_views: bool = Field(
        default=False,
        description="the most frequent view is a square cut out of the picture (for `resize = 'center_crop'`), "
        "not its whole frame, squashed",
    )
    brightness: float = Field(ge=0, lt=1)
    contrast: float = Field(ge=0, lt=1)
    saturation: float = Field(ge=0, le=1)
    white_balance: float = Field(ge=0, lt=1)
    gamma: float = Field(ge=0, lt=1)
    blur_probability: float = Field(ge=0, le=1)
    noise: float = Field(ge=0, description="standard deviation of pixel noise, of 255")
    dark_corner_probability: float = Field(ge=0, le=1)
    erase_probability: float = Field(ge=0, le=1)
    hair_probability: float = Field(default=0.0, ge=0, le=1)
    ruler_probability: float = Field(default=0.0, ge=0, le=1)
    ink_probability: float = Field(default=0.0, ge=0, le=1)
    bubble_probability: float = Field(default=0.0, ge=0, le=1)
    jpeg_probability: float = Field(default=0.0, ge=0, le=1)


class Stage(_Section):
    """Some epochs at one resolution: small pictures first learn most at a fraction of the cost."""

    epochs: int = Field(gt=0)
    pixels: Annotated[int, Field(multiple_of=32)]


class Train(_Section):
    """Optimisation: AdamW, linear warm-up then cosine to zero, exponential moving average of the weights."""

    stages: tuple[Stage, ...] = Field(min_length=1)
    batch_size: int = Field(gt=1)
    learning_rate: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    warmup_steps: int = Field(ge=0)
    ema_decay: float = Field(ge=0, lt=1)
    mixup: float = Field(default=0.0, ge=0, le=2, description="Beta distribution's parameter of the mixing; 0: none")
    prior_strength: float = Field(
        ge=0, le=1.5, description="logit adjustment against class imbalance: 0 none, 1 learns from a balanced mix"
    )

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    def pixels_at(self, epoch: int) -> int:
        """Resolution of epoch `epoch`, counted from 0."""
        for stage in self.stages:
            if epoch < stage.epochs:
                return stage.pixels
            epoch -= stage.epochs
        raise IndexError("epoch past the end of the last stage")


class Distillation(_Section):
    """Learning from other runs' answers (Hinton et al., arXiv:1503.02531) beside the diagnoses."""

    teachers: tuple[str, ...] = Field(
        min_length=1, description="names of finished runs beside this one; the mean of their logits is learnt"
    )
    weight: float = Field(gt=0, lt=1, description="the teachers' share of the loss; the diagnoses have the rest")
    temperature: float = Field(ge=1, description="both sides' logits are divided by it: small differences count more")


class Input(_Section):
    """The picture the exported graph takes: the preprocessing half of the contract."""

    pixels: Annotated[int, Field(multiple_of=32)]
    resize: ResizeMode
    mirror: bool = Field(description="the graph also looks at the mirrored picture and averages, at twice the cost")


class Decision(_Section):
    """Operating point and calibration, both chosen on validation."""

    malignant_sensitivity: float = Field(gt=0.5, lt=1)
    ece_limit: float = Field(
        gt=0, lt=1, description="expected calibration error; what exceeds it counts against a prior's balanced accuracy"
    )
    top2_limit: float = Field(
        default=0, ge=0, lt=1, description="accuracy of the first two diagnoses; what lacks counts against a prior too"
    )
    certain_share: float = Field(default=0.8, gt=0, lt=1, description="share of answers that count as certain")
    refused_share: float = Field(default=0.01, gt=0, lt=0.1, description="of lesions, refused by the gate")
    warned_share: float = Field(default=0.05, gt=0, lt=0.5, description="of lesions, called unfamiliar by the gate")
    quality_refused_share: float = Field(default=0.001, gt=0, lt=0.1, description="of lesions, by each quality measure")
    min_side_pixels: int = Field(default=96, ge=1, description="a picture with a shorter side is too small to judge")


class Config(_Section):
    """A whole training run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="model name in the store")
    seed: int = Field(ge=0)
    data: Data
    network: Network
    augmentation: Augmentation
    train: Train
    input: Input
    decision: Decision
    bootstrap_resamples: int = Field(gt=9)
    start_from: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]+$",
        description="name of a finished run beside this one whose averaged weights are trained on; else ImageNet's",
    )
    distillation: Distillation | None = None

    @model_validator(mode="after")
    def _trained_as_served(self) -> "Config":
        if self.augmentation.square_views != (self.input.resize == "center_crop"):
            raise ValueError("augmentation.square_views belongs to input.resize = 'center_crop', and to it alone")
        return self

    @property
    def digest(self) -> str:
        """sha256 of the configuration's values (comments and order do not count)."""
        return _digest(self.model_dump_json())

    @property
    def training_digest(self) -> str:
        """sha256 of what decides the trained weights; evaluation and export may change without a new training."""
        parts = {"seed", "data", "network", "augmentation", "train"}
        optional = {name for name in ("start_from", "distillation") if getattr(self, name)}
        # What a configuration does not use must not change its digest: its checkpoints are older than the option.
        unused = {} if self.augmentation.square_views else {"augmentation": {"square_views"}}
        return _digest(self.model_dump_json(include=parts | optional, exclude=unused))


def _digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def read_config(file: Path) -> Config:
    """Read a TOML file. Raises ConfigError, naming every wrong key."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {file}: {error.strerror}") from error
    return parse_config(content, str(file))


def parse_config(content: bytes, file: str) -> Config:
    """The bytes of the TOML file that messages call `file`. Raises ConfigError, naming every wrong key."""
    try:
        return Config.model_validate(tomllib.loads(content.decode()))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not TOML: {error}") from error
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{file} is not a training configuration:\n" + "\n".join(lines)) from error
