"""Golden vectors: generated pictures with the tensor and the answers they must give, everywhere and always.

The file is a NumPy archive without pickles: `jpeg_0` ... (encoded pictures, uint8 [bytes]), `tensors`
uint8 [N, H, W, 3] and, for each variant of the graph, `probabilities_<variant>` float32 [N, classes] and
`in_distribution_<variant>` float32 [N].
"""

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_store.contract.manifest import VariantName
from model_store.contract.preprocessing import Preprocessing, load_rgb, to_input

GOLDEN_LIMIT_BYTES = 200_000_000  # unpacked


@dataclass(frozen=True)
class GoldenAnswers:
    """What one variant answers: `probabilities` float32 [N, classes], `in_distribution` float32 [N]."""

    probabilities: NDArray[np.float32]
    in_distribution: NDArray[np.float32]


@dataclass(frozen=True)
class GoldenVectors:
    """`pictures` are encoded files; row i of `tensors` and of every answer belongs to picture i."""

    pictures: tuple[bytes, ...]
    tensors: NDArray[np.uint8]
    answers: dict[VariantName, GoldenAnswers]

    def one_by_one(self, variant: VariantName) -> Iterator[tuple[NDArray[np.uint8], GoldenAnswers]]:
        """Each tensor as a batch of its own, with what the variant must answer to it."""
        answers = self.answers[variant]
        for number in range(len(self.tensors)):
            one = slice(number, number + 1)
            yield self.tensors[one], GoldenAnswers(answers.probabilities[one], answers.in_distribution[one])


def write_golden(golden: GoldenVectors) -> bytes:
    """The archive's bytes."""
    arrays: dict[str, NDArray[np.generic]] = {"tensors": golden.tensors}
    arrays |= {f"jpeg_{i}": np.frombuffer(picture, np.uint8) for i, picture in enumerate(golden.pictures)}
    for variant, answers in golden.answers.items():
        arrays[f"probabilities_{variant}"] = answers.probabilities
        arrays[f"in_distribution_{variant}"] = answers.in_distribution
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def read_golden(data: bytes) -> GoldenVectors:
    """Raises ValueError when the archive is damaged, too large when unpacked, or the arrays do not belong together."""
    try:
        _check_unpacked_size(data)
        return _read(data)
    except ValueError:
        raise
    except Exception as error:  # NumPy and zipfile raise nearly anything for a forged archive, MemoryError included
        raise ValueError(f"golden vectors: not an archive of arrays ({type(error).__name__})") from error


def _check_unpacked_size(data: bytes) -> None:
    """A small archive can unpack to any size: zipfile never reads more of a part than its entry here says."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        unpacked_bytes = sum(part.file_size for part in archive.infolist())
    if unpacked_bytes > GOLDEN_LIMIT_BYTES:
        raise ValueError(f"golden vectors: {unpacked_bytes} bytes unpacked, allowed are {GOLDEN_LIMIT_BYTES}")


def _read(data: bytes) -> GoldenVectors:
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        tensors = archive["tensors"]
        pictures = tuple(archive[f"jpeg_{i}"].tobytes() for i in range(len(tensors)))
        answers: dict[VariantName, GoldenAnswers] = {
            variant: GoldenAnswers(archive[f"probabilities_{variant}"], archive[f"in_distribution_{variant}"])
            for variant in get_args(VariantName)
            if f"probabilities_{variant}" in archive
        }
    lengths = {len(rows) for a in answers.values() for rows in (a.probabilities, a.in_distribution)}
    if not len(tensors) or lengths != {len(tensors)}:
        raise ValueError("golden vectors: as many answers as tensors are needed, and at least one")
    shapes = {(a.probabilities.ndim, a.in_distribution.ndim) for a in answers.values()}
    if tensors.dtype != np.uint8 or tensors.ndim != 4 or shapes != {(2, 1)}:
        raise ValueError("golden vectors: the arrays are not of the shapes and types that they must have")
    return GoldenVectors(pictures, tensors, answers)


def preprocess_encoded(picture: bytes, contract: Preprocessing) -> NDArray[np.uint8]:
    """An encoded picture -> uint8 [H, W, 3], through the contract's own steps."""
    with Image.open(io.BytesIO(picture)) as image:
        return to_input(load_rgb(image, contract), contract)
