"""A version run on pictures outside the service: to repeat an answer, to compare versions, to try the golden vectors.

The same graph, preprocessing and settings of ONNX Runtime as in the service, one picture at a time: on the same kind
of machine the numbers are the same to the last bit.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from model_store.contract.golden import read_golden
from model_store.contract.manifest import Manifest, VariantName
from model_store.contract.preprocessing import load_rgb, to_input
from model_store.errors import DamagedVersionError, ReplayError, UnsafeGraphError
from model_store.graph_check import check_graph
from model_store.store import ModelVersion

_PIXEL_LIMIT = 40_000_000
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")


@dataclass(frozen=True)
class PictureAnswer:
    """Probabilities float32 [classes] in the manifest's order, and the score of the gate for what is no lesion."""

    probabilities: NDArray[np.float32]
    in_distribution: float

    def by_class(self, manifest: Manifest) -> dict[str, float]:
        """Class code -> probability, every bit of it."""
        return dict(zip(manifest.classes, map(float, self.probabilities), strict=True))

    def malignant(self, manifest: Manifest) -> float:
        """Probability that the lesion is malignant."""
        pairs = zip(manifest.malignant, self.probabilities, strict=True)
        return float(sum(float(probability) for malignant, probability in pairs if malignant))


class Runner:
    """One variant of one version. Raises UnsafeGraphError, DamagedVersionError, ReplayError."""

    def __init__(self, version: ModelVersion, variant: VariantName) -> None:
        self.manifest = version.manifest
        if variant not in self.manifest.variants:
            raise ReplayError(f"{self.manifest.name} {self.manifest.version} has no variant {variant}")
        self.variant = variant
        graph = version.read(self.manifest.variants[variant].file)
        check_graph(graph, self.manifest)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except (RuntimeError, ValueError) as error:
            raise UnsafeGraphError("ONNX Runtime refuses the graph") from error

    def answer(self, picture: bytes) -> PictureAnswer:
        """An encoded picture's answer. Raises ReplayError."""
        return self.run(_tensor(picture, self.manifest))

    def run(self, tensor: NDArray[np.uint8]) -> PictureAnswer:
        """uint8 [H, W, 3] -> answer."""
        names = self.manifest.graph
        try:
            found = self._session.run([names.probabilities, names.in_distribution], {names.input: tensor[None]})
        except (RuntimeError, ValueError) as error:
            raise UnsafeGraphError("ONNX Runtime fails to run the graph") from error
        return PictureAnswer(found[0][0], float(found[1][0]))


def golden_difference(version: ModelVersion, variant: VariantName) -> float:
    """Largest difference to the golden probabilities and scores; NaN where an answer is none."""
    runner = Runner(version, variant)
    try:
        golden = read_golden(version.read(version.manifest.golden.file))
        expected = golden.answers[variant]
        answers = [runner.run(tensor) for tensor in golden.tensors]
        pairs = zip(answers, expected.probabilities, expected.in_distribution, strict=True)
        off = [[*(a.probabilities - p), a.in_distribution - score] for a, p, score in pairs]
    except (ValueError, KeyError, OSError) as error:
        raise DamagedVersionError(f"{version.place}: the golden vectors cannot be read") from error
    return float(np.abs(np.array(off)).max())


def differing(answer: Mapping[str, Any], replayed: Mapping[str, float]) -> list[str]:
    """Classes whose probability in a service's answer is another than the replayed one, in any bit."""
    shown = answer.get("probabilities")
    if not isinstance(shown, dict) or set(shown) != set(replayed):
        raise ReplayError("the answer holds no probabilities of this version's classes")
    return [code for code, value in replayed.items() if shown[code] != value]


def read_answer(file: Path) -> dict[str, Any]:
    """A service's answer as JSON; its digest and variant say what to run. Raises ReplayError."""
    try:
        found = json.loads(file.read_bytes())
        if isinstance(found["model"]["digest"], str) and isinstance(found["model"]["variant"], str):
            return dict(found)
    except OSError as error:
        raise ReplayError(f"{file}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError):
        pass
    raise ReplayError(f"{file}: not an answer of the service")


def read_picture(file: Path) -> bytes:
    """Raises ReplayError."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise ReplayError(f"{file}: {error.strerror}") from error


def _tensor(picture: bytes, manifest: Manifest) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(picture), formats=_FORMATS) as image:
            if image.width * image.height > _PIXEL_LIMIT:
                raise ReplayError(f"the picture has more than {_PIXEL_LIMIT} pixels")
            return to_input(load_rgb(image, manifest.preprocessing), manifest.preprocessing)
    except ReplayError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly anything for damaged files
        raise ReplayError("the picture cannot be decoded") from error
