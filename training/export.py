"""The trained network and its calibration as one ONNX graph, proven to answer as the PyTorch network does.

`image` uint8 [N, H, W, 3] -> layout, float, normalisation, network, temperature, prior, softmax -> `probabilities`
float32 [N, classes]. Only standard operators, no external data: any ONNX runtime gives the same answer.
"""

import copy
import logging
import warnings
from collections.abc import Iterator
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
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model_store.contract.golden import GoldenVectors, preprocess_encoded
from model_store.contract.preprocessing import Preprocessing
from training.calibrate import Calibration
from training.errors import ExportError
from training.generate import golden_pictures
from training.metrics import Floats
from training.network import EfficientNetLite

INPUT = "image"
OUTPUT = "probabilities"
OPSET = 18  # the exporter's own; read by every ONNX Runtime since 1.14
MAX_PROBABILITY_DIFFERENCE = 1e-4  # float32 rounding of two runtimes stays ten times below

_EXPECTED_OPERATORS = {
    "Transpose", "Cast", "Sub", "Div", "Conv", "Clip", "Add", "GlobalAveragePool", "Reshape", "Gemm", "Softmax",
    "Slice",  # the mirrored view
}  # fmt: skip


class ShippedNetwork(nn.Module):
    """What the graph computes: pixels uint8 [N, H, W, 3] -> calibrated probabilities float32 [N, classes]."""

    def __init__(self, network: EfficientNetLite, calibration: Calibration) -> None:
        super().__init__()
        self.network = fold_batch_norms(network)
        # softmax(logits / T + share * log prior): T goes into the last layer's weights, the prior into its biases.
        layer = self.network.fc
        log_prior = torch.tensor(calibration.log_prior, dtype=torch.float32)
        layer.weight.data /= calibration.temperature
        layer.bias.data = layer.bias.data / calibration.temperature + calibration.prior_share * log_prior

    def forward(self, image: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] -> float32 [N, classes]."""
        features = self.network.pooled(image.permute(0, 3, 1, 2).float())
        return functional.softmax(self.network.fc(features.flatten(1)), dim=1)


def fold_batch_norms(network: EfficientNetLite) -> EfficientNetLite:
    """A copy in evaluation mode whose convolutions carry what the BatchNorm after them did."""
    folded = copy.deepcopy(network).cpu().float().eval()
    pairs: list[tuple[nn.Module, str, str]] = [(folded, "conv_stem", "bn0"), (folded, "conv_head", "bn1")]
    for block in folded.blocks:
        pairs += [(block, "expand_conv", "bn0")] if hasattr(block, "expand_conv") else []
        pairs += [(block, "depthwise_conv", "bn1"), (block, "project_conv", "bn2")]
    for module, conv, norm in pairs:
        setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
        setattr(module, norm, nn.Identity())
    return folded


def export_onnx(network: EfficientNetLite, calibration: Calibration, pixels: int) -> bytes:
    """The graph's bytes, checked. Raises ExportError when it is not one clean, self-contained graph."""
    shipped = ShippedNetwork(network, calibration).eval()
    example = torch.zeros((2, pixels, pixels, 3), dtype=torch.uint8)
    with _quiet_exporter():
        program = torch.onnx.export(
            shipped,
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("N")},),
        )
    assert program is not None
    model: onnx.ModelProto = rewrite(program.model_proto, [fuse_pad_into_conv_rule])
    _pool_globally(model.graph)
    _strip_debugging_text(model)
    _require_standard(model)
    return bytes(model.SerializeToString(deterministic=True))


class OnnxClassifier:
    """The graph in ONNX Runtime on the CPU: uint8 [N, H, W, 3] -> float32 [N, classes]."""

    def __init__(self, graph: bytes, threads: int | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads must not burn the CPU
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Calibrated probabilities of a batch."""
        (probabilities,) = self._session.run([OUTPUT], {INPUT: images})
        return np.asarray(probabilities, dtype=np.float32)


def require_parity(onnx_probabilities: Floats, torch_probabilities: Floats) -> float:
    """The largest difference of a probability, [N, classes] each. Raises ExportError when it is not mere rounding."""
    difference = float(np.abs(onnx_probabilities - torch_probabilities).max())
    if not difference < MAX_PROBABILITY_DIFFERENCE:  # so that NaN fails too
        raise ExportError(
            f"the ONNX graph answers differently from the network: a probability differs by {difference:.2g}, "
            f"the limit is {MAX_PROBABILITY_DIFFERENCE:.0e}"
        )
    return difference


def golden_vectors(graph: bytes, contract: Preprocessing) -> GoldenVectors:
    """Drawn pictures with the tensors and probabilities they give here."""
    pictures = golden_pictures()
    tensors = np.stack([preprocess_encoded(picture, contract) for picture in pictures])
    return GoldenVectors(pictures, tensors, OnnxClassifier(graph)(tensors))


def _pool_globally(graph: onnx.GraphProto) -> None:
    """The mean over height and width under its own name: what quantisers and other runtimes have fast code for."""
    means = [node for node in graph.node if node.op_type == "ReduceMean"]
    axes = {mean.input[1] for mean in means}
    for mean in means:
        del mean.input[1:]
        del mean.attribute[:]
        mean.op_type = "GlobalAveragePool"
    used = {name for node in graph.node for name in node.input}
    for constant in [i for i in graph.initializer if i.name in axes - used]:
        graph.initializer.remove(constant)


def _strip_debugging_text(model: onnx.ModelProto) -> None:
    """Stack traces and folder names of the machine that exported have no place in a released file."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for named in (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        named.doc_string = ""
        del named.metadata_props[:]


def _require_standard(model: onnx.ModelProto) -> None:
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
