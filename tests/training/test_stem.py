"""The folded first convolution gives the bits of the plain one."""

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from training.errors import ExportError
from training.export import INPUT, OPSET
from training.stem import fold_stem

_CHANNELS = 32
_BOTH_EDGES = (0, 0, 1, 1)


def stem(height: int, width: int, mirror: bool, pads: tuple[int, ...] = _BOTH_EDGES) -> onnx.ModelProto:
    """Picture -> first 8-bit feature map as float, as the quantiser leaves it: random weights, another scale each."""
    random = np.random.default_rng(0)
    constants = {
        "flip": np.array([-1]),
        "all": np.array([np.iinfo(np.int64).min]),
        "columns": np.array([2]),
        "x_scale": np.array(1 / 128, np.float32),
        "x_zero": np.array(127, np.uint8),
        "w": random.integers(-127, 128, (_CHANNELS, 3, 3, 3)).astype(np.int8),
        "w_scale": random.uniform(0.001, 0.01, _CHANNELS).astype(np.float32),
        "w_zero": np.zeros(_CHANNELS, np.int8),
        "b": random.integers(-9000, 9000, _CHANNELS).astype(np.int32),
        "b_zero": np.zeros(_CHANNELS, np.int32),
        "y_scale": np.array(6 / 255, np.float32),
        "y_zero": np.array(0, np.uint8),
    }
    constants["b_scale"] = constants["w_scale"] * constants["x_scale"]
    nodes = [
        ("Slice", [INPUT, "flip", "all", "columns", "flip"], "turned", {}),
        ("Concat", [INPUT, "turned"], "views", {"axis": 0}),
        ("Transpose", ["views" if mirror else INPUT], "planes", {"perm": [0, 3, 1, 2]}),
        ("DequantizeLinear", ["planes", "x_scale", "x_zero"], "values", {}),
        ("DequantizeLinear", ["w", "w_scale", "w_zero"], "weights", {"axis": 0}),
        ("DequantizeLinear", ["b", "b_scale", "b_zero"], "biases", {"axis": 0}),
        ("Conv", ["values", "weights", "biases"], "map", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": pads}),
        ("QuantizeLinear", ["map", "y_scale", "y_zero"], "bytes", {}),
        ("DequantizeLinear", ["bytes", "y_scale", "y_zero"], "features", {}),
    ]
    graph = helper.make_graph(
        [
            helper.make_node(kind, inputs, [output], **more)
            for kind, inputs, output, more in nodes[0 if mirror else 2 :]
        ],
        "stem",
        [helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", height, width, 3])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, _CHANNELS, None, None])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def features(model: onnx.ModelProto, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of the numbers that the quantiser has yet to drop
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {INPUT: pictures})[0])


@pytest.mark.parametrize("mirror", [True, False])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (24, 40), (4, 4)])
@pytest.mark.parametrize("n", [1, 3])
def test_the_folded_stem_gives_the_same_bits(mirror: bool, height: int, width: int, n: int) -> None:
    """One view or two, one picture or several, in the middle and at the edges, where zero points are added.

    No byte is above 128: two products with an int8 weight then fit into the 16 bits in which processors without VNNI
    add them, so that the order of the sum cannot matter on any machine.
    """
    plain, folded = stem(height, width, mirror), stem(height, width, mirror)
    fold_stem(folded.graph)
    pictures = np.random.default_rng(n).integers(0, 129, (n, height, width, 3), dtype=np.uint8)
    expected = features(plain, pictures)
    assert expected.shape == (n * (2 if mirror else 1), _CHANNELS, height // 2, width // 2)
    assert len(np.unique(expected)) > 20, "the map says next to nothing"
    assert np.array_equal(features(folded, pictures), expected)


def test_a_view_is_twelve_channels_for_one_convolution() -> None:
    """That is what makes it fast: ONNX Runtime's kernel takes channels by four and outputs by sixteen."""
    model = stem(64, 64, mirror=True)
    fold_stem(model.graph)
    stored = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    made_by = {output: node for node in model.graph.node for output in node.output}
    kernels = [made_by[node.input[1]].input[0] for node in model.graph.node if node.op_type == "Conv"]
    assert [stored[name] for name in kernels] == [[2 * _CHANNELS, 12, 3, 2]] * 2
    assert "Slice" not in {node.op_type for node in model.graph.node}


@pytest.mark.parametrize(("height", "width"), [(64, 66), (62, 64)])
def test_sizes_without_whole_quads_are_left_alone(height: int, width: int) -> None:
    """A size that 4 does not divide cannot be folded; the graph works as it is."""
    model = stem(height, width, mirror=True)
    before = model.SerializeToString(deterministic=True)
    fold_stem(model.graph)
    assert model.SerializeToString(deterministic=True) == before


def test_another_beginning_is_an_export_error() -> None:
    """Another padding, and no convolution at all: told, not folded into other answers."""
    with pytest.raises(ExportError, match="pads"):
        fold_stem(stem(64, 64, mirror=True, pads=(1, 1, 1, 1)).graph)
    model = stem(64, 64, mirror=True)
    del model.graph.node[2:]
    with pytest.raises(ExportError, match="begins with"):
        fold_stem(model.graph)
