"""The int8 variant answers nearly as fp32 does, at a quarter of the size, and is not published otherwise."""

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from model_store.contract.manifest import Variant
from training.calibrate import Calibration
from training.errors import ExportError
from training.export import OnnxClassifier, export_onnx
from training.gates import GateHead
from training.network import pretrained
from training.quantise import compare, is_acceptable, quantise

FLAT = Calibration(1.0, 0.0, 1.0, tuple(np.log(np.full(7, 1 / 7))))


def images(seed: int, n: int = 8) -> NDArray[np.uint8]:
    """Smooth coloured pictures, as photographs are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 3))
    return coarse.repeat(16, axis=1).repeat(16, axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def graph() -> bytes:
    """An exported network with ImageNet weights: real ranges, a new last layer that says something."""
    torch.manual_seed(0)
    network = pretrained("lite0", 7, dropout=0.0, drop_path=0.0).eval()
    torch.nn.init.normal_(network.fc.weight, std=0.1)
    network.mirror = True
    return export_onnx(network, FLAT, GateHead.placeholder(network.level_channels), 64)


@pytest.fixture(scope="module")
def int8(graph: bytes) -> bytes:
    return quantise(graph, images(1, 16))


def test_answers_are_nearly_the_same(graph: bytes, int8: bytes) -> None:
    """All four outputs are there, and the probabilities stay close for pictures that no range was measured on."""
    plain, quantised = (OnnxClassifier(g, threads=1).outputs(images(2)) for g in (graph, int8))
    assert {name: values.shape for name, values in quantised.items()} == {n: v.shape for n, v in plain.items()}
    shift = np.abs(plain["probabilities"] - quantised["probabilities"]).max(axis=1)
    assert np.median(shift) < 0.1
    assert shift.max() > 0, "nothing was quantised"


def test_weights_are_eight_bits_and_the_answers_float(graph: bytes, int8: bytes) -> None:
    """Every convolution but the last layer has int8 weights with a scale per channel; the file is small."""
    model = onnx.load_from_string(int8)
    integers = [i for i in model.graph.initializer if i.data_type == onnx.TensorProto.INT8 and len(i.dims) == 4]
    assert len(integers) == 49 + 1, "the first convolution stands there once for each view"
    last = next(node for node in model.graph.node if "class_maps" in node.output)
    weights = next(i for i in model.graph.initializer if i.name == last.input[1])
    assert weights.data_type == onnx.TensorProto.FLOAT
    assert len(int8) < 0.4 * len(graph)


def test_bytes_enter_as_they_are(int8: bytes) -> None:
    """Nothing stands between the views' layout and the first convolution; their bytes mean what they meant."""
    model = onnx.load_from_string(int8)
    used_by = {name: node for node in reversed(model.graph.node) for name in node.input}
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    for view in ("stem_plain", "stem_mirrored"):
        path = [node := next(n for n in model.graph.node if n.op_type == "Transpose" and n.input[0] == view)]
        path += [node := used_by[node.output[0]] for _ in range(3)]
        assert [node.op_type for node in path] == ["Transpose", "DequantizeLinear", "Conv", "QuantizeLinear"]
        assert [stored[name].item() for name in path[1].input[1:3]] == [1 / 128, 127]


def test_the_folded_stem_changes_no_answer(graph: bytes, int8: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """All four outputs have the bits that they have without folding, for one picture and for many."""
    monkeypatch.setattr("training.quantise.fold_stem", lambda graph: None)
    unfolded = quantise(graph, images(1, 16))
    assert unfolded != int8
    before, after = OnnxClassifier(unfolded, threads=1), OnnxClassifier(int8, threads=1)
    for pictures in (images(4, 1), images(5)):
        expected, found = before.outputs(pictures), after.outputs(pictures)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)


def with_unsigned_weights(graph: bytes) -> bytes:
    """The same graph with weights as uint8 about 128: no kernel adds those in 16 bits."""
    model = onnx.load_from_string(graph)
    stored = {i.name: i for i in model.graph.initializer}
    for node in list(model.graph.node):
        weights = stored.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if weights is not None and weights.data_type == onnx.TensorProto.INT8:
            signed = onnx.numpy_helper.to_array(weights).astype(np.int16)
            weights.CopyFrom(onnx.numpy_helper.from_array((signed + 128).astype(np.uint8), weights.name))
            zeros = np.full(stored[node.input[2]].dims, 128, np.uint8)
            node.input[2] = f"{weights.name}_middle"
            model.graph.initializer.append(onnx.numpy_helper.from_array(zeros, node.input[2]))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("darker", [1, 3])
def test_every_processor_gives_the_same_bits(int8: bytes, darker: int) -> None:
    """What this processor's kernel for int8 weights says is what one says that cannot cut a sum off.

    Only processors without VNNI can fail here; the next test looks at the weights, anywhere.
    """
    graphs = (int8, with_unsigned_weights(int8))
    here, exact = (OnnxClassifier(graph, threads=1).outputs(images(6) // darker) for graph in graphs)
    assert all(np.array_equal(here[name], exact[name]) for name in exact)


def test_no_two_neighbours_leave_sixteen_bits(int8: bytes) -> None:
    """255 times any two weights that a kernel adds first: their order in memory is rows, columns, then channels."""
    model = onnx.load_from_string(int8)
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    made_by = {output: node for node in model.graph.node for output in node.output}
    seen = 0
    for node in model.graph.node:
        if node.op_type == "Conv" and not any(a.name == "group" and a.i > 1 for a in node.attribute):
            dequantised = made_by.get(node.input[1])
            if dequantised is None:
                continue  # the last layer, which is float
            kernel = stored[dequantised.input[0]].astype(int).transpose(0, 2, 3, 1)
            weights = kernel.reshape(len(kernel), -1)
            sums = 255 * np.stack([np.maximum(weights, 0), np.maximum(-weights, 0)]).reshape(2, -1, 2).sum(axis=2)
            assert sums.max() <= np.iinfo(np.int16).max, dequantised.input[0]
            seen += 1
    assert seen == 33 + 1, "the first convolution stands there once for each view"


def test_no_number_is_left_over(int8: bytes) -> None:
    """Every constant of the file is used: ONNX Runtime has nothing to warn about."""
    graph = onnx.load_from_string(int8).graph
    assert {tensor.name for tensor in graph.initializer} <= {name for node in graph.node for name in node.input}


def test_a_graph_without_a_network_is_an_export_error() -> None:
    """Something else than an exported network is told, not quantised into nonsense."""
    empty = onnx.helper.make_model(onnx.helper.make_graph([], "nothing", [], []))
    with pytest.raises(ExportError, match="no feature map"):
        quantise(empty.SerializeToString(), images(1, 1))


def test_compare_measures_the_loss() -> None:
    """A changed first diagnosis costs balanced accuracy; the shift is that of the probability that moved most."""
    labels = np.arange(7)
    plain = np.eye(7) * 0.86 + 0.02
    moved = plain.copy()
    moved[0] = moved[1]
    variant = compare("model.int8.onnx", plain, moved, labels)
    assert variant.balanced_accuracy_loss == pytest.approx(1 / 7)
    assert variant.probability_shift_p99 == pytest.approx(np.percentile([0.86, *[0.0] * 6], 99))
    same = compare("model.int8.onnx", plain, plain, labels)
    assert (same.balanced_accuracy_loss, same.probability_shift_p99) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("loss", "shift", "published"), [(0.004, 0.05, True), (-0.01, 0.0, True), (0.006, 0.05, False), (0.0, 0.5, False)]
)
def test_too_large_a_loss_is_not_published(loss: float, shift: float, published: bool) -> None:
    """Half a point of balanced accuracy, and a bound on how far a probability may move."""
    variant = Variant(file="model.int8.onnx", probability_shift_p99=shift, balanced_accuracy_loss=loss)
    assert is_acceptable(variant) == published
