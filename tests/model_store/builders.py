"""Small versions to publish. `FILES` hold no graphs: the store does not look inside; `runnable_files` do."""

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from model_store.contract.golden import GoldenAnswers, GoldenVectors, preprocess_encoded, write_golden
from model_store.contract.preprocessing import Preprocessing
from tests.conftest import encoded, lesion_picture

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
SIDE = 32
CONTRACT = {"height": SIDE, "width": SIDE, "resize": "squash", "reduced_decode_factor": 2}
FILES = {
    "model.onnx": b"graph",
    "model.int8.onnx": b"smaller graph",
    "golden.npz": b"vectors",
    "reference.json": b"{}",
    "plots/roc.png": b"picture",
}
OUTPUTS = ("probabilities", "class_maps", "embedding", "in_distribution")
FP32 = {"file": "model.onnx", "probability_shift_p99": 0.0, "balanced_accuracy_loss": 0.0}
INT8 = {"file": "model.int8.onnx", "probability_shift_p99": 0.05, "balanced_accuracy_loss": -0.002}


def fields(**changes: Any) -> dict[str, Any]:
    """Manifest fields as a publisher gives them."""
    digest = "sha256:" + "0" * 64
    return {
        "name": "lesion7",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "licence": "CC BY-NC 4.0",
        "classes": ("mel", "nv"),
        "graph": {"input": "image", **{name: name for name in OUTPUTS}},
        "variants": {"fp32": FP32, "int8": INT8},
        "preprocessing": {"height": 64, "width": 64, "resize": "squash", "reduced_decode_factor": 2},
        "calibration": {
            "temperature": 1.0,
            "prior_share": 0.5,
            "prior": {"mel": 0.2, "nv": 0.8},
            "reference_prevalence": 0.2,
        },
        "malignancy": {"threshold": 0.2, "target_sensitivity": 0.95, "sensitivity": 0.94, "specificity": 0.7},
        "certainty": {"measure": "margin", "threshold": 0.3, "coverage": 0.8},
        "in_distribution": {"refuse_below": 0.1, "warn_below": 0.4},
        "quality": {
            "min_side_pixels": 100,
            "sharpness_min": 0.5,
            "brightness_min": 0.1,
            "brightness_max": 0.9,
            "dark_share_max": 0.5,
            "bright_share_max": 0.5,
            "contrast_min": 0.02,
        },
        "reference": {"file": "reference.json"},
        "golden": {"file": "golden.npz", "tolerance": {"fp32": 0.001, "int8": 0.03}},
        "provenance": {
            "commit": "abc",
            "config_digest": digest,
            "data_digest": digest,
            "split_digest": digest,
            "seed": 1,
            "packages": {},
        },
        **changes,
    }


def tiny_model(gain: float = 1.0, *, side: int = SIDE, seed: int = 0) -> onnx.ModelProto:
    """A graph as the manifest of `runnable_fields` wants it: the mean colour of each quarter decides.

    Its weights are drawn from `seed` and multiplied by `gain`; the mean of the whole picture is the score.
    """
    weights = np.random.default_rng(seed).normal(0, 2 * gain, (7, 3, 1, 1)).astype(np.float32)
    constants = {"scale": np.float32(255), "weights": weights, "all": np.array([1, 2, 3])}
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "scale"], ["unit"]),
        helper.make_node("Transpose", ["unit"], ["channels"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["channels"], ["cells"], kernel_shape=[side // 2] * 2, strides=[side // 2] * 2),
        helper.make_node("Conv", ["cells", "weights"], ["class_maps"]),
        helper.make_node("GlobalAveragePool", ["class_maps"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
        helper.make_node("Identity", ["logits"], ["embedding"]),
        helper.make_node("ReduceMean", ["unit", "all"], ["in_distribution"], keepdims=0),
    ]
    shapes = {"probabilities": ["N", 7], "class_maps": ["N", 7, 2, 2], "embedding": ["N", 7], "in_distribution": ["N"]}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", side, side, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def runnable_fields(**changes: Any) -> dict[str, Any]:
    """As `fields`, of a version whose graphs can be run."""
    own = {
        "classes": CLASSES,
        "preprocessing": CONTRACT,
        "calibration": fields()["calibration"] | {"prior": dict.fromkeys(CLASSES, 1 / 7)},
    }
    return fields(**own, **changes)


def runnable_files(accuracy: float = 0.75, pictures: int = 2) -> dict[str, bytes]:
    """Graphs, golden vectors that they answer, and an evaluation whose figures are `accuracy`."""
    graphs = {"fp32": tiny_model(1.0).SerializeToString(), "int8": tiny_model(1.01).SerializeToString()}
    return {
        "model.onnx": graphs["fp32"],
        "model.int8.onnx": graphs["int8"],
        "golden.npz": golden(graphs, CONTRACT, pictures),
        "reference.json": b"{}",
        "evaluation.json": json.dumps(evaluation(accuracy)).encode(),
        "MODEL_CARD.md": b"# Card of a tiny version",
        "plots/roc.png": b"picture",
    }


def golden(graphs: dict[str, bytes], contract: dict[str, Any], pictures: int) -> bytes:
    """`golden.npz`: drawn pictures, and what each of the graphs, by variant, answers to them."""
    drawn = tuple(encoded(lesion_picture(120, 90, seed)) for seed in range(pictures))
    tensors = np.stack([preprocess_encoded(picture, Preprocessing.model_validate(contract)) for picture in drawn])
    answers = {}
    for variant, graph in graphs.items():
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        answers[variant] = GoldenAnswers(*session.run(["probabilities", "in_distribution"], {"image": tensors}))
    return write_golden(GoldenVectors(drawn, tensors, answers))


def evaluation(accuracy: float) -> dict[str, Any]:
    """The outline of an evaluation.json, good enough for the gate when `accuracy` is."""

    def figure(value: float) -> dict[str, float]:
        return {"value": value, "low": round(value - 0.04, 5), "high": round(value + 0.04, 5)}

    group = {"pictures": 200, "malignant": 80, "malignant_sensitivity": figure(0.94)}
    part = {
        **group,
        "balanced_accuracy": figure(accuracy),
        "top2_accuracy": figure(0.9),
        "malignant_auroc": figure(0.92),
        "malignant_specificity": figure(0.7),
        "expected_calibration_error": figure(0.03),
        "classes": {code: {"pictures": 50, "sensitivity": figure(accuracy)} for code in CLASSES},
    }
    groups = {
        kind: {"one": group, "few": {"pictures": 3, "malignant": 1}} for kind in ("age", "sex", "skin_tone", "site")
    }
    return {
        "test": {"natural_mix": "clinic", "collections": {"clinic": part}, "all": part, "groups": groups},
        "parity": {"largest_probability_difference": 1e-6},
        "variants": {
            "int8": {
                "all": {"figures": {"balanced_accuracy": {"difference": figure(0.0)}}, "same_first_diagnosis": 0.98}
            }
        },
    }
