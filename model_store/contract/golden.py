"""Golden vectors: generated pictures with the tensor and the probabilities they must give, everywhere and always.

The file is a NumPy archive without pickles: `jpeg_0` ... (encoded pictures, uint8 [bytes]), `tensors`
uint8 [N, H, W, 3], `probabilities` float32 [N, classes].
"""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model_store.contract.preprocessing import Preprocessing, load_rgb, to_input


@dataclass(frozen=True)
class GoldenVectors:
    """`pictures` are encoded files; row i of `tensors` and `probabilities` belongs to picture i."""

    pictures: tuple[bytes, ...]
    tensors: NDArray[np.uint8]
    probabilities: NDArray[np.float32]


def write_golden(golden: GoldenVectors) -> bytes:
    """The archive's bytes."""
    arrays = {f"jpeg_{i}": np.frombuffer(picture, np.uint8) for i, picture in enumerate(golden.pictures)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, tensors=golden.tensors, probabilities=golden.probabilities, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def read_golden(data: bytes) -> GoldenVectors:
    """Raises ValueError (or what NumPy raises for a damaged archive) when the arrays do not belong together."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        tensors, probabilities = archive["tensors"], archive["probabilities"]
        pictures = tuple(archive[f"jpeg_{i}"].tobytes() for i in range(len(tensors)))
    if len(probabilities) != len(tensors) or not len(tensors):
        raise ValueError("golden vectors: as many probabilities as tensors are needed, and at least one")
    return GoldenVectors(pictures, tensors, probabilities)


def preprocess_encoded(picture: bytes, contract: Preprocessing) -> NDArray[np.uint8]:
    """An encoded picture -> uint8 [H, W, 3], through the contract's own steps."""
    with Image.open(io.BytesIO(picture)) as image:
        return to_input(load_rgb(image, contract), contract)
