"""The graph with 8-bit integers inside: up to twice as fast, a quarter of the size, the same answers everywhere.

Static and symmetric in the weights (int8, one scale per output channel), asymmetric in the activations (uint8, the
faster of the two kinds in ONNX Runtime). The ranges of the activations come from training pictures. What turns features
into answers stays in float: the last layer, the gate and the softmax cost nothing and would lose most.

x86 processors without VNNI (before Ice Lake and Zen 4) add two neighbouring products in 16 bits, and what does not fit
is cut off: with scales from the largest weight alone probabilities were off by up to 0.6 there. So the scales make room
for the largest pair: no sum is ever cut off, and every processor gives the same bits.

Rounding alone would move 2 % of the first diagnoses: what is quantised here are weights that have learnt to be rounded
(`rounding.py`).
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from model_store.contract.manifest import Variant
from training.data import CLASSES
from training.errors import ExportError
from training.export import CLASS_MAPS, INPUT, require_standard
from training.metrics import Floats, Ints, balanced_accuracy
from training.network import PIXEL_MEAN, PIXEL_SCALE
from training.rounding import reach
from training.stem import fold_stem

MAX_BALANCED_ACCURACY_LOSS = 0.005
MAX_PROBABILITY_SHIFT_P99 = 0.15
_BATCH = 8  # pictures a step while ranges are measured; the calibrator keeps every activation of a step
_QUANTISED = ("Conv", "Clip", "Add")


def quantise(graph: bytes, calibration_images: NDArray[np.uint8]) -> bytes:
    """The int8 variant of an exported graph. `calibration_images`: training pictures uint8 [n, H, W, 3], some hundred.

    Raises ExportError when the outcome is not one clean, self-contained graph.
    """
    model = onnx.load_from_string(graph)
    trunk = _trunk(model.graph)
    convolutions = [node for node in trunk if node.op_type == "Conv"]
    ranges = _weight_ranges(model, convolutions)
    with tempfile.TemporaryDirectory() as folder, _quiet_quantiser():
        quantised = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            quantised,
            _Pictures(calibration_images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTISED),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=[node.name for node in trunk],
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"TensorQuantOverrides": ranges},
        )
        smaller = onnx.load(quantised)
    _feed_bytes(smaller.graph)
    fold_stem(smaller.graph)
    _drop_leftovers(smaller.graph)
    require_standard(smaller)
    return bytes(smaller.SerializeToString(deterministic=True))


def compare(file: str, plain: Floats, quantised: Floats, labels: Ints) -> Variant:
    """What the int8 variant costs: probabilities float64 [N, classes] of both on the same validation pictures."""
    once = np.ones((1, len(labels)))
    accuracies = [balanced_accuracy(labels, p.argmax(axis=1), len(CLASSES), once)[0] for p in (plain, quantised)]
    shifts = np.abs(plain - quantised).max(axis=1)
    return Variant(
        file=file,
        probability_shift_p99=float(np.percentile(shifts, 99)),
        balanced_accuracy_loss=float(accuracies[0] - accuracies[1]),
    )


def is_acceptable(variant: Variant) -> bool:
    """Whether the int8 variant may be published; otherwise a version has fp32 alone."""
    return (
        variant.balanced_accuracy_loss <= MAX_BALANCED_ACCURACY_LOSS
        and variant.probability_shift_p99 <= MAX_PROBABILITY_SHIFT_P99
    )


class _Pictures(CalibrationDataReader):  # type: ignore[misc]
    """Batches of pictures as the quantiser asks for them: one dictionary of inputs at a time, None at the end."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._batches = iter(np.array_split(images, range(_BATCH, len(images), _BATCH)))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next batch."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def _weight_ranges(model: onnx.ModelProto, convolutions: list[onnx.NodeProto]) -> dict[str, list[dict[str, Any]]]:
    """The range of each output channel of each convolution's weights, as the quantiser wants to be told."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    ranges: dict[str, list[dict[str, Any]]] = {}
    for node in convolutions:
        weights = torch.from_numpy(np.array(onnx.numpy_helper.to_array(stored[node.input[1]])))
        largest_sums = reach(weights, _groups(node)).numpy()
        ranges[node.input[1]] = [{"axis": 0, "rmin": -largest, "rmax": largest} for largest in largest_sums]
    return ranges


def _groups(convolution: onnx.NodeProto) -> int:
    return next((int(a.i) for a in convolution.attribute if a.name == "group"), 1)


def _feed_bytes(graph: onnx.GraphProto) -> None:
    """Leave out bytes -> float -> normalised -> bytes at the picture's end of the trunk: 4 to 7 % of the time.

    Normalised as (x - 127) / 128 and quantised with the scale 1/128 and the zero point 127, x is x again.
    """
    made_by = {output: node for node in graph.node for output in node.output}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    rounding = next(
        node for node in graph.node if node.op_type == "QuantizeLinear" and made_by[node.input[0]].op_type == "Div"
    )
    divided = made_by[rounding.input[0]]
    subtracted = made_by[divided.input[0]]
    cast = made_by[subtracted.input[0]]
    steps = [(node.op_type, float(onnx.numpy_helper.to_array(stored[node.input[1]]))) for node in (subtracted, divided)]
    if steps != [("Sub", PIXEL_MEAN), ("Div", PIXEL_SCALE)] or cast.op_type != "Cast":
        raise ExportError(f"the graph normalises its input by {steps}: its bytes cannot be fed as they are")
    exact = {rounding.input[1]: np.float32(1 / PIXEL_SCALE), rounding.input[2]: np.uint8(PIXEL_MEAN)}
    for name, value in exact.items():
        stored[name].CopyFrom(onnx.numpy_helper.from_array(np.array(value), name))
    for node in graph.node:
        node.input[:] = [cast.input[0] if name == rounding.output[0] else name for name in node.input]
    for node in (rounding, divided, subtracted, cast):
        graph.node.remove(node)


def _drop_leftovers(graph: onnx.GraphProto) -> None:
    """Leave out numbers that no operator takes any more, and shapes noted before the graph was rewritten."""
    used = {name for node in graph.node for name in node.input}
    for unused in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(unused)
    del graph.value_info[:]


def _trunk(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The operators between the picture and the feature map: all that is worth quantising."""
    made_by = {output: node for node in graph.node for output in node.output}

    def above(tensor: str) -> Iterator[onnx.NodeProto]:
        waiting, seen = [tensor], set()
        while waiting:
            node = made_by.get(waiting.pop())
            if node is not None and node.name not in seen:
                seen.add(node.name)
                waiting += node.input
                yield node

    features = next((node for node in above(CLASS_MAPS) if node.op_type == "Clip"), None)
    if features is None:
        raise ExportError("the graph has no feature map: nothing to quantise")
    return [node for node in above(features.output[0]) if node.op_type in _QUANTISED]


@contextmanager
def _quiet_quantiser() -> Iterator[None]:
    """It recommends to fold what the export has folded already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
