"""ONNX Runtime: one verified graph, run by several threads at once."""

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model_store.contract.golden import preprocess_encoded, read_golden
from model_store.contract.manifest import Manifest
from model_store.store import ModelVersion

# Another build of libjpeg or Pillow may round a pixel differently; two levels of 255 change no answer.
_TENSOR_TOLERANCE_LEVELS = 2


class SelfTestError(Exception):
    """The version does not answer as its golden vectors say, or its graph is not what the manifest says."""


class Engine:
    """`infer` may be called from several threads; each call computes in the thread that calls."""

    def __init__(self, version: ModelVersion) -> None:
        """Load the graph and replay the golden vectors. Raises SelfTestError, DamagedVersionError."""
        manifest = version.manifest
        self._input, self._output = manifest.graph.input, manifest.graph.probabilities
        options = onnxruntime.SessionOptions()
        # Parallelism comes from running several batches at once: measured 210 img/s so, 187 with two threads a batch.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                version.read(manifest.graph.file), options, providers=["CPUExecutionProvider"]
            )
        except (RuntimeError, ValueError) as error:  # ONNX Runtime's exceptions derive from these
            raise SelfTestError(f"{version.folder}: ONNX Runtime refuses the graph") from error
        _check_signature(self._session, manifest)
        self._self_test(version)

    def infer(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [N, H, W, 3] RGB -> probabilities float32 [N, classes]."""
        (probabilities,) = self._session.run([self._output], {self._input: images})
        result: NDArray[np.float32] = probabilities
        return result

    def _self_test(self, version: ModelVersion) -> None:
        """Warm-up and proof in one: picture -> tensor -> probabilities must be those of the training machine."""
        manifest = version.manifest
        try:
            golden = read_golden(version.read(manifest.golden.file))
        except (ValueError, KeyError, OSError) as error:
            raise SelfTestError(f"{version.folder}: the golden vectors cannot be read") from error
        for number, (picture, expected) in enumerate(zip(golden.pictures, golden.tensors, strict=True)):
            tensor = preprocess_encoded(picture, manifest.preprocessing)
            if tensor.shape != expected.shape:
                raise SelfTestError(f"{version.folder}: golden picture {number} has another shape")
            off = int(np.abs(tensor.astype(np.int16) - expected).max())
            if off > _TENSOR_TOLERANCE_LEVELS:
                raise SelfTestError(
                    f"{version.folder}: golden picture {number} is preprocessed {off} levels differently"
                )
        probabilities = self.infer(golden.tensors)
        off_by = float(np.abs(probabilities - golden.probabilities).max())
        if not off_by <= manifest.golden.tolerance:  # also true for NaN
            raise SelfTestError(
                f"{version.folder}: golden probabilities differ by {off_by:.2g}, "
                f"allowed are {manifest.golden.tolerance:g}"
            )


def _check_signature(session: onnxruntime.InferenceSession, manifest: Manifest) -> None:
    """The graph takes and gives what the manifest says."""
    contract = manifest.preprocessing
    inputs = [(i.name, i.type, tuple(i.shape[1:])) for i in session.get_inputs()]
    if inputs != [(manifest.graph.input, "tensor(uint8)", (contract.height, contract.width, 3))]:
        raise SelfTestError(f"the graph takes {inputs}, the manifest says otherwise")
    outputs = [(o.name, o.type, tuple(o.shape[1:])) for o in session.get_outputs()]
    if (manifest.graph.probabilities, "tensor(float)", (len(manifest.classes),)) not in outputs:
        raise SelfTestError(f"the graph gives {outputs}, the manifest says otherwise")
