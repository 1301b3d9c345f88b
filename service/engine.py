"""ONNX Runtime: one verified variant of the graph, run by several threads at once."""

import logging
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model_store.contract.golden import GoldenAnswers, GoldenVectors, preprocess_encoded, read_golden
from model_store.contract.manifest import Manifest, VariantName
from model_store.store import ModelVersion
from service.log import log

VariantChoice = Literal["auto", "fp32", "int8"]

# Another build of libjpeg or Pillow may round a pixel differently; two levels of 255 change no answer.
_TENSOR_TOLERANCE_LEVELS = 2


class SelfTestError(Exception):
    """The version does not answer as its golden vectors say, or its graph is not what the manifest says."""


@dataclass(frozen=True)
class PictureOutput:
    """What the graph says of one picture.

    `probabilities` float32 [classes]; `class_maps` float32 [classes, h, w]: what each cell adds to a class's logit;
    `in_distribution` in [0, 1], higher is more like the lesions of the training data.
    """

    probabilities: NDArray[np.float32]
    class_maps: NDArray[np.float32]
    in_distribution: float


@dataclass(frozen=True)
class NetworkOutput:
    """What the graph says of a batch: as PictureOutput, float32 with a leading N."""

    probabilities: NDArray[np.float32]
    class_maps: NDArray[np.float32]
    in_distribution: NDArray[np.float32]

    def rows(self) -> list[PictureOutput]:
        """One for each picture. Raises ValueError when the outputs are not of one length."""
        together = zip(self.probabilities, self.class_maps, self.in_distribution, strict=True)
        return [PictureOutput(probabilities, maps, float(score)) for probabilities, maps, score in together]


class Engine:
    """One variant. `infer` may be called from several threads; each call computes in the thread that calls."""

    def __init__(self, version: ModelVersion, variant: VariantName) -> None:
        """Load the graph and replay the golden vectors. Raises SelfTestError, DamagedVersionError."""
        self.variant, self._graph = variant, version.manifest.graph
        try:
            self._session = _session(version.read(version.manifest.variants[variant].file))
            _check_signature(self._session, version.manifest)
            self._self_test(version)
        except SelfTestError as error:
            raise SelfTestError(f"{version.manifest.name} {version.manifest.version} {variant}: {error}") from error

    def infer(self, images: NDArray[np.uint8]) -> NetworkOutput:
        """uint8 [N, H, W, 3] RGB -> what the graph says of the N pictures."""
        wanted = [self._graph.probabilities, self._graph.class_maps, self._graph.in_distribution]
        return NetworkOutput(*self._session.run(wanted, {self._graph.input: images}))

    def _self_test(self, version: ModelVersion) -> None:
        """Warm-up and proof in one: picture -> tensor -> answer must be those of the training machine."""
        manifest = version.manifest
        try:
            golden = read_golden(version.read(manifest.golden.file))
            expected = golden.answers[self.variant]
        except (ValueError, KeyError, OSError) as error:
            raise SelfTestError("the golden vectors cannot be read") from error
        _check_preprocessing(golden, manifest)
        _check_answers(self.infer(golden.tensors), expected, manifest.golden.tolerance[self.variant])


def load_engine(version: ModelVersion, choice: VariantChoice) -> Engine:
    """The variant that is asked for, or an error. `auto`: int8 where it proves itself, else fp32, told in the log.

    Processors without dot products of bytes may round int8 sums differently: the golden vectors find that out here.
    Raises SelfTestError, DamagedVersionError.
    """
    known = version.manifest.variants
    if choice != "auto":
        if choice not in known:
            raise SelfTestError(f"{version.manifest.name} {version.manifest.version} has no variant {choice}")
        return Engine(version, choice)
    if "int8" in known:
        try:
            return Engine(version, "int8")
        except SelfTestError as refused:
            log(logging.WARNING, "int8 refused, fp32 serves", reason=str(refused))
    return Engine(version, "fp32")


def _session(graph: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # Parallelism comes from running several batches at once: measured 210 img/s so, 187 with two threads a batch.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except (RuntimeError, ValueError) as error:  # ONNX Runtime's exceptions derive from these
        raise SelfTestError("ONNX Runtime refuses the graph") from error


def _check_signature(session: onnxruntime.InferenceSession, manifest: Manifest) -> None:
    """The graph takes and gives what the manifest says."""
    contract, graph, classes = manifest.preprocessing, manifest.graph, len(manifest.classes)
    inputs = [(i.name, i.type, tuple(i.shape[1:])) for i in session.get_inputs()]
    if inputs != [(graph.input, "tensor(uint8)", (contract.height, contract.width, 3))]:
        raise SelfTestError(f"the graph takes {inputs}, the manifest says otherwise")
    outputs = {o.name: (o.type, o.shape[1:]) for o in session.get_outputs()}
    maps_type, maps_shape = outputs.get(graph.class_maps, ("none", []))
    if (
        outputs.get(graph.probabilities) != ("tensor(float)", [classes])
        or outputs.get(graph.in_distribution) != ("tensor(float)", [])
        or (maps_type, len(maps_shape), *maps_shape[:1]) != ("tensor(float)", 3, classes)
    ):
        raise SelfTestError(f"the graph gives {outputs}, the manifest says otherwise")


def _check_preprocessing(golden: GoldenVectors, manifest: Manifest) -> None:
    for number, (picture, expected) in enumerate(zip(golden.pictures, golden.tensors, strict=True)):
        tensor = preprocess_encoded(picture, manifest.preprocessing)
        if tensor.shape != expected.shape:
            raise SelfTestError(f"golden picture {number} has another shape")
        off = int(np.abs(tensor.astype(np.int16) - expected).max())
        if off > _TENSOR_TOLERANCE_LEVELS:
            raise SelfTestError(f"golden picture {number} is preprocessed {off} levels differently")


def _check_answers(found: NetworkOutput, expected: GoldenAnswers, tolerance: float) -> None:
    pairs = {
        "golden probabilities": (found.probabilities, expected.probabilities),
        "golden in-distribution scores": (found.in_distribution, expected.in_distribution),
    }
    for what, (here, there) in pairs.items():
        off_by = float(np.abs(here - there).max())
        if not off_by <= tolerance:  # also true for NaN
            raise SelfTestError(f"{what} differ by {off_by:.2g}, allowed are {tolerance:g}")
