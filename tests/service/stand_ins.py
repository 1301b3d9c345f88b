"""Small real stand-ins: a manifest, outputs made by hand, and a version whose graph fits on a screen."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from model_store.contract.manifest import Manifest
from model_store.contract.quality import PictureQuality
from model_store.store import ModelStore
from service.decode import DecodedPicture
from service.engine import PictureOutput
from tests.model_store import builders

CLASSES = builders.CLASSES
SIDE = 64
CONTRACT = {"height": SIDE, "width": SIDE, "resize": "squash", "reduced_decode_factor": 2}


def fields(variants: tuple[str, ...] = ("fp32",)) -> dict[str, Any]:
    """Manifest fields as a publisher gives them: threshold 0.2, certainty 0.6, scores 0.1 and 0.5, prevalence 0.25."""
    calibration = {"temperature": 1.0, "prior_share": 0.5, "reference_prevalence": 0.25}
    return builders.fields(
        classes=CLASSES,
        variants={v: {"file": f"{v}.onnx", "probability_shift_p99": 0, "balanced_accuracy_loss": 0} for v in variants},
        preprocessing=CONTRACT,
        calibration={**calibration, "prior": dict.fromkeys(CLASSES, 1 / 7)},
        malignancy={"threshold": 0.2, "target_sensitivity": 0.95, "sensitivity": 0.9, "specificity": 0.8},
        certainty={"measure": "max_probability", "threshold": 0.6, "coverage": 0.8},
        in_distribution={"refuse_below": 0.1, "warn_below": 0.5},
        quality={
            "min_side_pixels": 100,
            "sharpness_min": 0.5,
            "brightness_min": 0.15,
            "brightness_max": 0.95,
            "dark_share_max": 0.6,
            "bright_share_max": 0.3,
            "contrast_min": 0.02,
        },
        golden={"file": "golden.npz", "tolerance": dict.fromkeys(variants, 0.001)},
    )


def manifest(**changes: Any) -> Manifest:
    """The manifest of `fields`, parts replaced by `changes`."""
    files = {name: {"sha256": "0" * 64, "size_bytes": 1} for name in ("fp32.onnx", "golden.npz", "reference.json")}
    return Manifest.model_validate({**fields(), "schema_version": 2, "version": "1", "files": files, **changes})


def output(score: float = 0.9, class_maps: NDArray[np.float32] | None = None, **probabilities: float) -> PictureOutput:
    """What the network might say: the classes that are named, and nv for the rest of the probability."""
    filled = {"nv": 1 - sum(p for code, p in probabilities.items() if code != "nv"), **probabilities}
    row = np.array([filled.get(code, 0.0) for code in CLASSES], np.float32)
    return PictureOutput(row, np.zeros((7, 7, 7), np.float32) if class_maps is None else class_maps, score)


def picture(width: int = 600, height: int = 450, **quality: float) -> DecodedPicture:
    """A good picture, less what `quality` says."""
    good = {"sharpness": 2.0, "brightness": 0.6, "dark_share": 0.05, "bright_share": 0.0, "contrast": 0.2}
    measured = PictureQuality(min_side_pixels=min(width, height), **{**good, **quality})
    return DecodedPicture(np.zeros((SIDE, SIDE, 3), np.uint8), width, height, measured, 0.0, 0.0)


def graph(gain: float = 1.0, *, slow: bool = False, seed: int = 0) -> bytes:
    """ONNX: the mean colour of each quarter of the picture, times `gain`, decides; the whole mean is the score.

    A slow one computes the same, and a large convolution that counts for nothing.
    """
    model = builders.tiny_model(gain, side=SIDE, seed=seed)
    if slow:
        _burden(model.graph)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _burden(described: onnx.GraphProto) -> None:
    (scoring,) = (node for node in described.node if "in_distribution" in node.output)
    scoring.output[:] = ["score"]
    constants = {"large": np.ones((256, 3, 15, 15), np.float32), "nothing": np.float32(0)}
    described.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    described.node.extend(
        [
            helper.make_node("Conv", ["channels", "large"], ["busy"]),
            helper.make_node("ReduceMean", ["busy", "all"], ["busy_mean"], keepdims=0),
            helper.make_node("Mul", ["busy_mean", "nothing"], ["ballast"]),
            helper.make_node("Add", ["score", "ballast"], ["in_distribution"]),
        ]
    )


def publish(
    root: Path | ModelStore,
    graphs: dict[str, bytes],
    golden_of: dict[str, bytes] | None = None,
    alias: str | None = "production",
    **contract: str,
) -> ModelStore:
    """A store (there or new) whose newest version has these variants; the golden answers are those of `golden_of`."""
    preprocessing = {**CONTRACT, **contract}
    files = {f"{variant}.onnx": data for variant, data in graphs.items()}
    files |= {
        "golden.npz": builders.golden(golden_of or graphs, preprocessing, 3),
        "reference.json": b"{}",
        "MODEL_CARD.md": b"# Stand-in",
    }
    store = root if isinstance(root, ModelStore) else ModelStore(root)
    version = store.publish(files, {**fields(tuple(graphs)), "preprocessing": preprocessing})
    if alias:
        store.promote("lesion7", version.manifest.version, alias)
    return store
