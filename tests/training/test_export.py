"""The graph answers as the network does, and holds nothing but standard operators."""

import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from model_store.contract.golden import preprocess_encoded, read_golden
from tests.training.conftest import SmokeChain
from training.calibrate import Calibration
from training.errors import ExportError
from training.export import (
    OnnxClassifier,
    ShippedNetwork,
    export_onnx,
    fold_batch_norms,
    require_parity,
    require_same_outputs,
    require_standard,
)
from training.gates import GateHead
from training.network import EfficientNetLite, pretrained

CALIBRATION = Calibration(1.7, 1.4, 0.3, tuple(np.log([0.04, 0.05, 0.1, 0.01, 0.1, 0.69, 0.01])))


@pytest.fixture(scope="module")
def network() -> EfficientNetLite:
    """A network whose answers depend on the picture: ImageNet's features, a last layer that weighs them."""
    torch.manual_seed(0)
    network = pretrained("lite0", 7, dropout=0.0, drop_path=0.0).eval()
    torch.nn.init.normal_(network.fc.weight, std=0.05)
    network.mirror = True
    return network


@pytest.fixture(scope="module")
def head(network: EfficientNetLite) -> GateHead:
    """A gate with numbers of its own."""
    random = torch.Generator().manual_seed(1)
    buffers = GateHead.placeholder(network.level_channels).named_buffers()
    fitted = {name: torch.rand(buffer.shape, generator=random) for name, buffer in buffers}
    moderate = {"kinds": fitted["kinds"] / 20, "distance": torch.tensor([-0.2, -0.1, 2.0])}  # no score is 0 or 1
    return GateHead(fitted | moderate | {"scale": fitted["scale"] + 0.5})


@pytest.fixture(scope="module")
def graph(network: EfficientNetLite, head: GateHead) -> bytes:
    """The exported graph."""
    return export_onnx(network, CALIBRATION, head, 64)


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


def test_class_maps_make_up_the_logits(network: EfficientNetLite, graph: bytes) -> None:
    """Mean of a class's map over the cells, and the last layer's bias, is the class's logit."""
    found = OnnxClassifier(graph, threads=1).outputs(images())
    assert found["class_maps"].shape == (5, 7, 2, 2)
    bias = network.fc.bias.detach().numpy() / CALIBRATION.temperature
    logits = found["class_maps"].mean(axis=(2, 3)) + bias
    expected = replace(CALIBRATION, temperature=1.0).probabilities(logits)
    assert found["probabilities"] == pytest.approx(expected, abs=1e-5)


def test_a_mirrored_picture_is_the_same_lesion(graph: bytes) -> None:
    """Mirrored: the same answers, and the maps mirrored with the picture."""
    classifier = OnnxClassifier(graph, threads=1)
    plain, mirrored = classifier.outputs(images()), classifier.outputs(images()[:, :, ::-1].copy())
    for name in ("probabilities", "embedding", "in_distribution"):
        assert mirrored[name] == pytest.approx(plain[name], rel=1e-3, abs=1e-4)
    assert mirrored["class_maps"] == pytest.approx(plain["class_maps"][..., ::-1], abs=1e-4)
    assert np.abs(plain["class_maps"] - plain["class_maps"][..., ::-1]).max() > 1e-3


def test_the_gate_sees_every_level(network: EfficientNetLite, head: GateHead, graph: bytes) -> None:
    """Embedding [N, 64] and score [N] are the gate's answers to the mean of both views."""
    found = OnnxClassifier(graph, threads=1).outputs(images())
    with torch.inference_mode():
        levels = network.levels(torch.from_numpy(images()).permute(0, 3, 1, 2).float())
        embedding, score = head(levels)
    assert levels.shape == (5, network.level_channels)
    assert ((score > 0.01) & (score < 0.99)).any()
    assert found["embedding"] == pytest.approx(embedding.numpy(), rel=1e-3, abs=1e-3)
    assert found["in_distribution"] == pytest.approx(score.numpy(), abs=1e-4)
    assert found["in_distribution"].shape == (5,)


def test_another_answer_is_an_export_error(network: EfficientNetLite, graph: bytes) -> None:
    """Each output is compared with PyTorch, not the probabilities alone."""
    with pytest.raises(ExportError, match="embedding"):
        require_same_outputs(
            graph, ShippedNetwork(network, CALIBRATION, GateHead.placeholder(network.level_channels)), images()
        )


def test_folding_changes_nothing(network: EfficientNetLite) -> None:
    """BatchNorm disappears into the convolutions; the original network keeps its own."""
    folded = fold_batch_norms(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    assert logits_of(folded, images()) == pytest.approx(logits_of(network, images()), abs=1e-4)


def test_graph_is_clean(graph: bytes) -> None:
    """The network once for both views, padding inside the convolutions, no BatchNorm, nothing computed from shapes."""
    model = onnx.load_from_string(graph)
    count = {kind: sum(node.op_type == kind for node in model.graph.node) for kind in ("Transpose", "Cast", "Conv")}
    kinds = {node.op_type for node in model.graph.node}
    assert count == {"Transpose": 1, "Cast": 1, "Conv": 50}  # the last layer is one
    assert not kinds & {"Pad", "BatchNormalization", "Shape", "Dropout", "ReduceMean"}
    assert {"GlobalAveragePool", "Gemm", "Softmax", "Clip"} <= kinds


def test_graph_names_no_machine(graph: bytes) -> None:
    """No stack trace, folder or source file of the machine that exported stays in the file."""
    model = onnx.load_from_string(graph)
    assert not model.metadata_props
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    assert not re.search(rb"[\w/-]{6,}\.py", graph)


def test_same_network_same_bytes(network: EfficientNetLite, head: GateHead, graph: bytes) -> None:
    """The export is reproducible, so that a repeated run can be compared by digest."""
    assert export_onnx(network, CALIBRATION, head, 64) == graph


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
        require_standard(model)


def test_golden_vectors_replay(smoke_chain: SmokeChain) -> None:
    """The published pictures give the published tensors exactly, and each variant's answers within its tolerance."""
    version = smoke_chain.version
    golden = read_golden(version.read(version.manifest.golden.file))
    tensors = np.stack([preprocess_encoded(p, version.manifest.preprocessing) for p in golden.pictures])
    assert np.array_equal(tensors, golden.tensors)
    assert set(golden.answers) == set(version.manifest.variants)
    for name, variant in version.manifest.variants.items():
        found = OnnxClassifier(version.read(variant.file), threads=1).outputs(tensors)
        tolerance = version.manifest.golden.tolerance[name]
        assert np.abs(found["probabilities"] - golden.answers[name].probabilities).max() < tolerance
        assert np.abs(found["in_distribution"] - golden.answers[name].in_distribution).max() < tolerance


def test_golden_vectors_tell_a_wrong_graph(smoke_chain: SmokeChain) -> None:
    """The pictures are different enough that swapped colour channels would be noticed."""
    version = smoke_chain.version
    golden = read_golden(version.read(version.manifest.golden.file))
    answers = OnnxClassifier(version.read("model.onnx"), threads=1)(golden.tensors[..., ::-1].copy())
    difference = np.abs(answers - golden.answers["fp32"].probabilities).max()
    assert difference > 10 * version.manifest.golden.tolerance["fp32"]
