"""The trained network, its calibration and its gate as one ONNX graph, proven to answer as PyTorch does.

`image` uint8 [N, H, W, 3] -> layout, float, normalisation, network, and in float32 what `OUTPUTS` names:
`probabilities` [N, classes] after temperature and prior; `class_maps` [N, classes, h, w], what each cell adds to a
class's logit (their mean over the cells, and the bias, is the logit); `embedding` [N, 64] and `in_distribution` [N] of
the gate. Only standard operators, no external data: any ONNX runtime gives the same answer.
"""

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules.common import fuse_pad_into_conv_rule
from torch import Tensor, nn
from torch.nn import functional

from model_store.contract.golden import GoldenAnswers, GoldenVectors, preprocess_encoded
from model_store.contract.manifest import VariantName
from model_store.contract.preprocessing import Preprocessing
from training.calibrate import Calibration
from training.errors import ExportError
from training.gates import GateHead
from training.generate import golden_pictures
from training.metrics import Floats
from training.network import EfficientNetLite, fold_batch_norms, halves, means

INPUT = "image"
PROBABILITIES, CLASS_MAPS, EMBEDDING, IN_DISTRIBUTION = "probabilities", "class_maps", "embedding", "in_distribution"
OUTPUTS = (PROBABILITIES, CLASS_MAPS, EMBEDDING, IN_DISTRIBUTION)
OPSET = 18  # the exporter's own; read by every ONNX Runtime since 1.14
MAX_PROBABILITY_DIFFERENCE = 1e-4  # float32 rounding of two runtimes stays ten times below

_EXPECTED_OPERATORS = {
    "Transpose", "Cast", "Sub", "Div", "Conv", "Clip", "Add", "GlobalAveragePool", "Reshape", "Softmax",
    "Slice", "Concat", "Squeeze",  # the mirrored view
    "Gemm", "MatMul", "Mul", "Pow", "ReduceSum", "Sigmoid", "Gather", "Min", "Neg", "Exp", "Log", "Max",  # the gate
    "QuantizeLinear", "DequantizeLinear",  # the int8 variant
}  # fmt: skip


class ShippedNetwork(nn.Module):
    """What the graph computes: pixels uint8 [N, H, W, 3] -> the four outputs, in the order of `OUTPUTS`.

    Its probabilities are those of `calibrate.Calibration`.
    """

    def __init__(self, network: EfficientNetLite, calibration: Calibration, head: GateHead) -> None:
        super().__init__()
        self.network = fold_batch_norms(network)
        self.head = copy.deepcopy(head).cpu().float().eval()
        layer = self.network.fc
        weight = layer.weight.data / calibration.temperature
        self.weight = nn.Parameter(weight[:, :, None, None])  # as a 1 x 1 convolution
        self.bias = nn.Parameter(layer.bias.data / calibration.temperature)
        self.prior_weight = calibration.prior_weight
        log_prior = torch.tensor(calibration.log_prior, dtype=torch.float32)
        self.prior = nn.Parameter(calibration.prior_share * log_prior)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """uint8 [N, H, W, 3] -> probabilities [N, 7], class maps [N, 7, h, w], embedding [N, 64], score [N]."""
        # Views are mirrored as bytes and maps as seven channels: on whole feature maps it would cost a tenth of int8.
        views = torch.cat([image, image.flip(2)]) if self.network.mirror else image
        maps = self.network.maps(views.permute(0, 3, 1, 2).float())
        # The last layer sees every cell by itself; its mean over the cells is its answer to the pooled features. So
        # the maps are not an explanation beside the logits, the logits are made of them.
        class_maps = functional.conv2d(maps[-1], self.weight)
        levels = means(maps)
        if self.network.mirror:
            plain, mirrored = halves(class_maps)
            class_maps = (plain + mirrored.flip(3)) / 2  # a cell stands for its place in the picture again
            plain, mirrored = halves(levels)
            levels = (plain + mirrored) / 2
        logits = class_maps.mean(dim=(2, 3), keepdim=True).flatten(1) + self.bias
        embedding, score = self.head(levels)
        natural = functional.softmax(logits + self.prior, dim=1)
        probabilities = (1 - self.prior_weight) * functional.softmax(logits, dim=1) + self.prior_weight * natural
        return probabilities, class_maps, embedding, score


def export_onnx(network: EfficientNetLite, calibration: Calibration, head: GateHead, pixels: int) -> bytes:
    """The graph's bytes, checked. Raises ExportError when it is not one clean, self-contained graph."""
    shipped = ShippedNetwork(network, calibration, head).eval()
    shipped.requires_grad_(False)
    example = torch.zeros((2, pixels, pixels, 3), dtype=torch.uint8)
    with _quiet_exporter():
        program = torch.onnx.export(
            shipped,
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: torch.export.Dim("N")},),
        )
    assert program is not None
    model: onnx.ModelProto = rewrite(program.model_proto, [fuse_pad_into_conv_rule])
    _pool_globally(model.graph)
    _strip_debugging_text(model)
    require_standard(model)
    graph = bytes(model.SerializeToString(deterministic=True))
    require_same_outputs(graph, shipped, np.random.default_rng(0).integers(0, 256, (3, pixels, pixels, 3), np.uint8))
    return graph


class OnnxClassifier:
    """The graph in ONNX Runtime on the CPU: uint8 [N, H, W, 3] -> float32 [N, classes]."""

    def __init__(self, graph: bytes, threads: int | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads must not burn the CPU
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Calibrated probabilities of a batch."""
        (probabilities,) = self._session.run([PROBABILITIES], {INPUT: images})
        return np.asarray(probabilities, dtype=np.float32)

    def outputs(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Everything that the graph gives for a batch, by the names in `OUTPUTS`."""
        found = self._session.run(list(OUTPUTS), {INPUT: images})
        return {name: np.asarray(values, dtype=np.float32) for name, values in zip(OUTPUTS, found, strict=True)}


def require_parity(onnx_probabilities: Floats, torch_probabilities: Floats) -> float:
    """The largest difference of a probability, [N, classes] each. Raises ExportError when it is not mere rounding."""
    difference = float(np.abs(onnx_probabilities - torch_probabilities).max())
    if not difference < MAX_PROBABILITY_DIFFERENCE:  # so that NaN fails too
        raise ExportError(
            f"the ONNX graph answers differently from the network: a probability differs by {difference:.2g}, "
            f"the limit is {MAX_PROBABILITY_DIFFERENCE:.0e}"
        )
    return difference


def require_same_outputs(graph: bytes, network: ShippedNetwork, images: NDArray[np.uint8]) -> None:
    """Every output of the graph is PyTorch's, but for rounding. Raises ExportError that names the output.

    Class maps and embedding have no fixed range: they are compared in units of their own largest value.
    """
    found = OnnxClassifier(graph).outputs(images)
    with torch.inference_mode():
        expected = dict(zip(OUTPUTS, network(torch.from_numpy(images)), strict=True))
    for name in OUTPUTS:
        reference = expected[name].numpy()
        scale = max(1.0, float(np.abs(reference).max()))
        difference = float(np.abs(found[name] - reference).max()) / scale
        if not difference < MAX_PROBABILITY_DIFFERENCE:
            raise ExportError(f"the ONNX graph's {name} differ from the network's by {difference:.2g}")


def golden_vectors(graphs: Mapping[VariantName, bytes], contract: Preprocessing) -> GoldenVectors:
    """Drawn pictures with the tensors and answers they give here."""
    pictures = golden_pictures()
    tensors = np.stack([preprocess_encoded(picture, contract) for picture in pictures])
    answers = {}
    for variant, graph in graphs.items():
        found = OnnxClassifier(graph).outputs(tensors)
        answers[variant] = GoldenAnswers(found[PROBABILITIES], found[IN_DISTRIBUTION])
    return GoldenVectors(pictures, tensors, answers)


def _pool_globally(graph: onnx.GraphProto) -> None:
    """The mean over height and width under its own name: what quantisers and other runtimes have fast code for."""
    maps = {
        i.name
        for i in graph.initializer
        if list(i.dims) == [2] and onnx.numpy_helper.to_array(i).tolist() in ([2, 3], [-2, -1])
    }
    for mean in graph.node:
        if mean.op_type == "ReduceMean" and mean.input[1] in maps:
            del mean.input[1:]
            del mean.attribute[:]
            mean.op_type = "GlobalAveragePool"
    used = {name for node in graph.node for name in node.input}
    for constant in [i for i in graph.initializer if i.name in maps - used]:
        graph.initializer.remove(constant)


def _strip_debugging_text(model: onnx.ModelProto) -> None:
    """Stack traces and folder names of the machine that exported have no place in a released file."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for named in (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        named.doc_string = ""
        del named.metadata_props[:]


def require_standard(model: onnx.ModelProto) -> None:
    """Only operators that every runtime has, nothing computed from shapes, every tensor inside the file."""
    onnx.checker.check_model(model, full_check=True)
    unexpected = {node.op_type for node in model.graph.node} - _EXPECTED_OPERATORS
    domains = {entry.domain for entry in model.opset_import} - {"", "ai.onnx"}
    external = [tensor.name for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    if unexpected or domains or external:
        raise ExportError(
            f"the exported graph is not clean: operators {sorted(unexpected)}, domains {sorted(domains)}, "
            f"external tensors {external}"
        )


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter warns of packages that are absent and of its own deprecations: nothing a reader can act on."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
