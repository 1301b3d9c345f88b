"""The int8 graph's first convolution, with four neighbouring pixels as one of twelve channels: the same bits, sooner.

With the picture's three channels, ONNX Runtime has no kernel for it: it copies every window together, three bytes at a
time, and multiplies matrices. Twelve channels and 64 outputs (two neighbouring pixels of the feature map, 32 each) are
what its kernel for 8-bit convolutions takes, and in channels-last order folding and unfolding only change the shape.
The zero weights where a window does not reach cost less than the copies did.

The mirrored view becomes mirrored too: quads in reverse order and, instead of turning the pixels in each, weights that
expect them turned. So 12 bytes are moved at a time, not 3. Both together: 8 to 9 % of the time of the whole graph.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper
from onnx.helper import get_attribute_value, make_node

from training.errors import ExportError
from training.export import INPUT

_QUAD = 4  # pixels beside each other, the width of one place of the folded picture
_PAIR = 2  # pixels of the feature map that a quad gives: the stride is 2
_FOLDABLE = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}  # "same", for even sizes
_PATH = ["Transpose", "DequantizeLinear", "Conv", "QuantizeLinear"]
_TO_PLANES, _TO_PIXELS = [0, 3, 1, 2], [0, 2, 3, 1]


def fold_stem(graph: onnx.GraphProto) -> None:
    """Rewrite the first convolution of a quantised graph that takes bytes; no output changes by a bit.

    That holds where 8-bit products are summed exactly: weights must leave room for any two neighbours (`quantise`), as
    folding makes others neighbours. A picture whose height or width 4 does not divide has no whole quads: its graph is
    left alone.
    Raises ExportError when the graph does not begin as an exported and quantised network does.
    """
    height, width = (size.dim_value for size in graph.input[0].type.tensor_type.shape.dim[1:3])
    if height % _QUAD or width % _QUAD:
        return
    stem = _find(graph)
    stored = {tensor.name: tensor for tensor in graph.initializer}
    weights = numpy_helper.to_array(stored[stem.weights.input[0]])
    for name in {*stem.weights.input[1:], *stem.biases.input}:  # one number an output channel, the same for both pixels
        tensor = stored[name]
        tensor.CopyFrom(numpy_helper.from_array(np.tile(numpy_helper.to_array(tensor), _PAIR), name))
    constants = {
        "stem_quads_shape": np.array([0, height, width // _QUAD, 3 * _QUAD]),  # 0: as many pictures as there are
        "stem_pixels_shape": np.array([0, height // 2, width // 2, len(weights)]),
        "stem_reversed": np.arange(width // _QUAD)[::-1],
        "stem_plain_weights": _over_quads(weights, mirrored=False),
        "stem_mirrored_weights": _over_quads(weights, mirrored=True),
    }
    graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in constants.items())
    behind = list(graph.node).index(stem.rounding) + 1
    for node in reversed(_folded(stem)):
        graph.node.insert(behind, node)
    for node in (*stem.mirror, stem.layout, stem.entrance, stem.weights, stem.convolution, stem.rounding):
        graph.node.remove(node)


@dataclass(frozen=True)
class _Stem:
    """The nodes between the picture and the first 8-bit feature map."""

    mirror: tuple[NodeProto, ...]  # Slice and Concat; none in a network that looks at the picture once
    layout: NodeProto  # Transpose
    entrance: NodeProto  # DequantizeLinear, as are weights and biases
    weights: NodeProto
    biases: NodeProto
    convolution: NodeProto
    rounding: NodeProto  # QuantizeLinear


def _find(graph: onnx.GraphProto) -> _Stem:
    made_by = {output: node for node in graph.node for output in node.output}
    taken_by = {name: node for node in reversed(graph.node) for name in node.input}  # the first of several
    path: list[NodeProto] = []
    node = next((node for node in graph.node if node.op_type == "Transpose"), None)
    while node is not None and len(path) < len(_PATH):
        path.append(node)
        node = taken_by.get(node.output[0])
    if [node.op_type for node in path] != _PATH:
        raise ExportError(f"the graph begins with {[node.op_type for node in path]}, not with {_PATH}")
    layout, entrance, convolution, rounding = path
    attributes = {a.name: get_attribute_value(a) for a in convolution.attribute}
    if not attributes.items() >= _FOLDABLE.items():
        raise ExportError(f"the first convolution has {attributes}: only one with {_FOLDABLE} can be folded")
    weights, biases = (made_by[name] for name in convolution.input[1:3])
    return _Stem(_mirror(made_by, layout.input[0]), layout, entrance, weights, biases, convolution, rounding)


def _mirror(made_by: dict[str, NodeProto], views: str) -> tuple[NodeProto, ...]:
    """What puts the mirrored pictures behind the pictures."""
    if views == INPUT:
        return ()
    together = made_by[views]
    turn = made_by[together.input[-1]]
    if (turn.op_type, list(together.input)) != ("Slice", [INPUT, turn.output[0]]):
        raise ExportError("the graph sees its picture by other views than itself and its mirror image")
    return turn, together


def _over_quads(weights: NDArray[np.int8], mirrored: bool) -> NDArray[np.int8]:
    """Weights [outputs, 3, 3, 3] -> [pair x outputs, quad x 3, 3, 2]; `mirrored`: each quad's pixels come turned."""
    outputs = len(weights)
    spread = np.zeros((_PAIR, outputs, 2 * _QUAD, 3, 3), np.int8)  # pixel, output, column of two quads, channel, row
    for pixel in range(_PAIR):
        spread[pixel, :, 2 * pixel : 2 * pixel + 3] = weights.transpose(0, 3, 1, 2)
    quads = spread.reshape(_PAIR * outputs, 2, _QUAD, 3, 3)
    turned = quads[:, :, ::-1] if mirrored else quads
    return np.ascontiguousarray(turned.reshape(_PAIR * outputs, 2, _QUAD * 3, 3).transpose(0, 2, 3, 1))


def _folded(stem: _Stem) -> list[NodeProto]:
    """The nodes in place of those found. What is between Transposes ONNX Runtime runs channels last, without them."""
    nodes = [make_node("Reshape", [INPUT, "stem_quads_shape"], ["stem_plain"])]
    views = ["stem_plain"]
    if stem.mirror:
        nodes.append(make_node("Gather", ["stem_plain", "stem_reversed"], ["stem_mirrored"], axis=2))
        views.append("stem_mirrored")
    _, scale, zero_point = stem.entrance.input
    for view in views:
        nodes += [
            make_node("Transpose", [view], [f"{view}_planes"], perm=_TO_PLANES),
            make_node("DequantizeLinear", [f"{view}_planes", scale, zero_point], [f"{view}_values"]),
            make_node("DequantizeLinear", [f"{view}_weights", *stem.weights.input[1:]], [f"{view}_kernel"], axis=0),
            _convolution([f"{view}_values", f"{view}_kernel", stem.biases.output[0]], f"{view}_map"),
            make_node("QuantizeLinear", [f"{view}_map", *stem.rounding.input[1:]], [f"{view}_bytes"]),
            make_node("Transpose", [f"{view}_bytes"], [f"{view}_pairs"], perm=_TO_PIXELS),
        ]
    return [
        *nodes,
        make_node("Concat", [f"{view}_pairs" for view in views], ["stem_pairs"], axis=0),
        make_node("Reshape", ["stem_pairs", "stem_pixels_shape"], ["stem_pixels"]),
        make_node("Transpose", ["stem_pixels"], [stem.rounding.output[0]], perm=_TO_PLANES),
    ]


def _convolution(inputs: list[str], output: str) -> NodeProto:
    """Over rows and quads: a window begins in a quad and ends in the next."""
    return make_node("Conv", inputs, [output], kernel_shape=[3, 2], strides=[2, 1], pads=[0, 0, 1, 1])
