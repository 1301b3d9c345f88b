"""A graph with the outputs of the real one and hardly any weights: it judges by mean colours."""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from training.export import CLASS_MAPS, EMBEDDING, IN_DISTRIBUTION, INPUT, OPSET, PROBABILITIES

_CELL = 8  # pixels


def tiny_graph(weights: NDArray[np.float32], bias: float = 4.0) -> bytes:
    """`weights` [7, 3]: logits from the mean colour, in [0, 1]. Score: sigmoid of `bias` less 8 times the mean blue."""
    shapes = {PROBABILITIES: ["N", 7], CLASS_MAPS: ["N", 7, None, None], EMBEDDING: ["N", 3], IN_DISTRIBUTION: ["N"]}
    constants = {
        "scale": np.array(255, np.float32),
        "W": weights.reshape(7, 3, 1, 1).astype(np.float32),
        "to_score": np.array([[0, 0, -8]], np.float32).T,
        "bias": np.array([bias], np.float32),
        "last": np.array([1]),
    }
    nodes = [
        ("Transpose", [INPUT], "planes", {"perm": [0, 3, 1, 2]}),
        ("Cast", ["planes"], "floats", {"to": TensorProto.FLOAT}),
        ("Div", ["floats", "scale"], "unit", {}),
        ("AveragePool", ["unit"], "cells", {"kernel_shape": [_CELL, _CELL], "strides": [_CELL, _CELL]}),
        ("Conv", ["cells", "W"], CLASS_MAPS, {}),
        ("GlobalAveragePool", [CLASS_MAPS], "means", {}),
        ("Flatten", ["means"], "logits", {}),
        ("Softmax", ["logits"], PROBABILITIES, {"axis": 1}),
        ("GlobalAveragePool", ["cells"], "colours", {}),
        ("Flatten", ["colours"], EMBEDDING, {}),
        ("MatMul", [EMBEDDING, "to_score"], "scored", {}),
        ("Add", ["scored", "bias"], "shifted", {}),
        ("Sigmoid", ["shifted"], "sigmoid", {}),
        ("Squeeze", ["sigmoid", "last"], IN_DISTRIBUTION, {}),
    ]
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, [output], **more) for kind, inputs, output, more in nodes],
        "tiny",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def colour_weights(strength: float = 12.0) -> NDArray[np.float32]:
    """Red pictures are melanomas, green ones nevi, grey ones neither for sure."""
    weights = np.zeros((7, 3), np.float32)
    weights[4], weights[5] = [strength, -strength, 0], [-strength, strength, 0]  # mel, nv
    return weights
