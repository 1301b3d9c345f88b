"""The graph answers as the network does, and holds nothing but standard operators."""

import dataclasses
import re

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from model_store.contract.golden import preprocess_encoded, read_golden
from tests.training.conftest import SmokeChain
from training.calibrate import Calibration
from training.errors import ExportError
from training.export import OnnxClassifier, _require_standard, export_onnx, fold_batch_norms, require_parity
from training.network import EfficientNetLite

CALIBRATION = Calibration(1.7, 0.4, tuple(np.log([0.04, 0.05, 0.1, 0.01, 0.1, 0.69, 0.01])))


@pytest.fixture(scope="module")
def network() -> EfficientNetLite:
    """A network whose BatchNorm has statistics of its own, as after training."""
    torch.manual_seed(0)
    network = EfficientNetLite("lite0", 7).train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(4, 3, 64, 64) * 255)
    return network.eval()


@pytest.fixture(scope="module")
def graph(network: EfficientNetLite) -> bytes:
    """The exported graph."""
    return export_onnx(network, CALIBRATION, 64)


def images(n: int = 5) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (n, 64, 64, 3), dtype=np.uint8)


def logits_of(network: EfficientNetLite, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.inference_mode():
        logits: NDArray[np.float32] = network(torch.from_numpy(pictures).permute(0, 3, 1, 2).float()).numpy()
    return logits


@pytest.mark.parametrize("n", [1, 5])
def test_graph_equals_network_and_calibration(network: EfficientNetLite, graph: bytes, n: int) -> None:
    """uint8 pictures in, the calibrated probabilities of PyTorch out, for any number of pictures."""
    expected = CALIBRATION.probabilities(logits_of(network, images(n)))
    found = OnnxClassifier(graph, threads=1)(images(n))
    assert found.dtype == np.float32
    assert require_parity(found.astype(np.float64), expected) < 1e-5
    assert found.sum(axis=1) == pytest.approx(np.ones(n), abs=1e-5)


def test_folding_changes_nothing(network: EfficientNetLite) -> None:
    """BatchNorm disappears into the convolutions; the original network keeps its own."""
    folded = fold_batch_norms(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    assert logits_of(folded, images()) == pytest.approx(logits_of(network, images()), abs=1e-4)


def test_graph_is_clean(graph: bytes) -> None:
    """One Transpose, one Cast, padding inside the convolutions, no BatchNorm, nothing computed from shapes."""
    model = onnx.load_from_string(graph)
    count = {kind: sum(node.op_type == kind for node in model.graph.node) for kind in ("Transpose", "Cast", "Conv")}
    kinds = {node.op_type for node in model.graph.node}
    assert count == {"Transpose": 1, "Cast": 1, "Conv": 49}
    assert not kinds & {"Pad", "BatchNormalization", "Shape", "Gather", "Dropout", "ReduceMean"}
    assert {"GlobalAveragePool", "Gemm", "Softmax", "Clip"} <= kinds


def test_graph_names_no_machine(graph: bytes) -> None:
    """No stack trace, folder or source file of the machine that exported stays in the file."""
    model = onnx.load_from_string(graph)
    assert not model.metadata_props
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    assert not re.search(rb"[\w/-]{6,}\.py", graph)


def test_same_network_same_bytes(network: EfficientNetLite, graph: bytes) -> None:
    """The export is reproducible, so that a repeated run can be compared by digest."""
    assert export_onnx(network, CALIBRATION, 64) == graph


def test_difference_is_an_export_error() -> None:
    """More than rounding between graph and network stops the job, and so does NaN."""
    right = np.full((2, 7), 1 / 7)
    with pytest.raises(ExportError, match="differs by 0.001"):
        require_parity(right + 1e-3, right)
    with pytest.raises(ExportError):
        require_parity(np.full((2, 7), np.nan), right)


def test_unexpected_operator_is_an_export_error(graph: bytes) -> None:
    """An operator that another runtime may not have is found before publishing."""
    model = onnx.load_from_string(graph)
    clip = next(node for node in model.graph.node if node.op_type == "Clip")
    clip.op_type = "Relu"
    del clip.input[1:]
    with pytest.raises(ExportError, match="Relu"):
        _require_standard(model)


def test_golden_vectors_replay(smoke_chain: SmokeChain) -> None:
    """The published pictures give the published tensors exactly, and the probabilities within the tolerance."""
    version = smoke_chain.version
    golden = read_golden(version.read(version.manifest.golden.file))
    tensors = np.stack([preprocess_encoded(p, version.manifest.preprocessing) for p in golden.pictures])
    assert np.array_equal(tensors, golden.tensors)
    answers = OnnxClassifier(version.read(version.manifest.graph.file), threads=1)(tensors)
    assert np.abs(answers - golden.probabilities).max() < version.manifest.golden.tolerance


def test_golden_vectors_tell_a_wrong_graph(smoke_chain: SmokeChain) -> None:
    """The pictures are different enough that swapped colour channels would be noticed."""
    version = smoke_chain.version
    golden = read_golden(version.read(version.manifest.golden.file))
    swapped = dataclasses.replace(golden, tensors=golden.tensors[..., ::-1].copy())
    answers = OnnxClassifier(version.read(version.manifest.graph.file), threads=1)(swapped.tensors)
    assert np.abs(answers - golden.probabilities).max() > 10 * version.manifest.golden.tolerance
