"""Small real stand-ins: a manifest, outputs made by hand, and a version whose graph fits on a screen."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model_store.contract.golden import GoldenAnswers, GoldenVectors, preprocess_encoded, write_golden
from model_store.contract.manifest import Manifest
from model_store.contract.preprocessing import Preprocessing
from model_store.contract.quality import PictureQuality
from model_store.store import ModelStore
from service.decode import DecodedPicture
from service.engine import PictureOutput
from tests.conftest import encoded, lesion_picture

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
SIDE = 64
CONTRACT = {"height": SIDE, "width": SIDE, "resize": "squash", "reduced_decode_factor": 2}
OUTPUTS = ("probabilities", "class_maps", "embedding", "in_distribution")


def fields(variants: tuple[str, ...] = ("fp32",)) -> dict[str, Any]:
    """Manifest fields as a publisher gives them: threshold 0.2, certainty 0.6, scores 0.1 and 0.5, prevalence 0.25."""
    digest = "sha256:" + "0" * 64
    return {
        "name": "lesion7",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "licence": "CC BY-NC 4.0",
        "classes": CLASSES,
        "graph": {"input": "image", **{name: name for name in OUTPUTS}},
        "variants": {
            v: {"file": f"{v}.onnx", "probability_shift_p99": 0, "balanced_accuracy_loss": 0} for v in variants
        },
        "preprocessing": CONTRACT,
        "calibration": {
            "temperature": 1.0,
            "prior_share": 0.5,
            "prior": dict.fromkeys(CLASSES, 1 / 7),
            "reference_prevalence": 0.25,
        },
        "malignancy": {"threshold": 0.2, "target_sensitivity": 0.95, "sensitivity": 0.9, "specificity": 0.8},
        "certainty": {"measure": "max_probability", "threshold": 0.6, "coverage": 0.8},
        "in_distribution": {"refuse_below": 0.1, "warn_below": 0.5},
        "quality": {
            "min_side_pixels": 100,
            "sharpness_min": 0.5,
            "brightness_min": 0.15,
            "brightness_max": 0.95,
            "dark_share_max": 0.6,
            "bright_share_max": 0.3,
            "contrast_min": 0.02,
        },
        "reference": {"file": "reference.json"},
        "golden": {"file": "golden.npz", "tolerance": dict.fromkeys(variants, 0.001)},
        "provenance": {
            "commit": "abc",
            "config_digest": digest,
            "data_digest": digest,
            "split_digest": digest,
            "seed": 1,
            "packages": {},
        },
    }


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
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(seed).normal(0, 2 * gain, (7, 3, 1, 1)).astype(np.float32)
    constants = {"scale": np.float32(255), "weights": weights, "all": np.array([1, 2, 3])}
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "scale"], ["unit"]),
        helper.make_node("Transpose", ["unit"], ["channels"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["channels"], ["cells"], kernel_shape=[SIDE // 2] * 2, strides=[SIDE // 2] * 2),
        helper.make_node("Conv", ["cells", "weights"], ["class_maps"]),
        helper.make_node("GlobalAveragePool", ["class_maps"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
        helper.make_node("Identity", ["logits"], ["embedding"]),
        helper.make_node("ReduceMean", ["unit", "all"], ["score" if slow else "in_distribution"], keepdims=0),
    ]
    if slow:
        constants |= {"large": np.ones((256, 3, 15, 15), np.float32), "nothing": np.float32(0)}
        nodes += [
            helper.make_node("Conv", ["channels", "large"], ["busy"]),
            helper.make_node("ReduceMean", ["busy", "all"], ["busy_mean"], keepdims=0),
            helper.make_node("Mul", ["busy_mean", "nothing"], ["ballast"]),
            helper.make_node("Add", ["score", "ballast"], ["in_distribution"]),
        ]
    shapes = {"probabilities": ["N", 7], "class_maps": ["N", 7, 2, 2], "embedding": ["N", 7], "in_distribution": ["N"]}
    described = helper.make_graph(
        nodes,
        "stand_in",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(described, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def publish(
    root: Path | ModelStore,
    graphs: dict[str, bytes],
    golden_of: dict[str, bytes] | None = None,
    alias: str | None = "production",
    **contract: str,
) -> ModelStore:
    """A store (there or new) whose newest version has these variants; the golden answers are those of `golden_of`."""
    preprocessing = {**CONTRACT, **contract}
    pictures = tuple(encoded(lesion_picture(120, 90, seed)) for seed in range(3))
    tensors = np.stack([preprocess_encoded(p, Preprocessing.model_validate(preprocessing)) for p in pictures])
    golden = GoldenVectors(pictures, tensors, {v: _answers(g, tensors) for v, g in (golden_of or graphs).items()})
    files = {f"{variant}.onnx": data for variant, data in graphs.items()}
    files |= {"golden.npz": write_golden(golden), "reference.json": b"{}", "MODEL_CARD.md": b"# Stand-in"}
    store = root if isinstance(root, ModelStore) else ModelStore(root)
    version = store.publish(files, {**fields(tuple(graphs)), "preprocessing": preprocessing})
    if alias:
        store.promote("lesion7", version.manifest.version, alias)
    return store


def _answers(graph_bytes: bytes, tensors: NDArray[np.uint8]) -> GoldenAnswers:
    session = onnxruntime.InferenceSession(graph_bytes, providers=["CPUExecutionProvider"])
    return GoldenAnswers(*session.run(["probabilities", "in_distribution"], {"image": tensors}))
