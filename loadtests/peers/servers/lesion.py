"""What every rival serves: the same network behind the same two ways to decode, set up by PEERS_ variables."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from loadtests.peers.network import Network, read_network

PREFIX = "PEERS_"


@dataclass(frozen=True, slots=True)
class Settings:
    """How a rival is set up; the measurement tries several and keeps its best."""

    port: int
    variant: str  # fp32, int8
    decoder: str  # "usual": open, convert, resize; "dermserve": the calls of model_store/contract/preprocessing.py
    workers: int  # processes
    threads: int  # pictures worked on at once in a process
    intra_op: int  # ONNX Runtime's threads for one run, 0: its default, which spins
    batch: int  # pictures in a batch at most


def settings() -> Settings:
    """From PEERS_PORT, PEERS_VARIANT and so on."""
    number = {
        name: int(os.environ.get(PREFIX + name.upper(), 1)) for name in ("workers", "threads", "intra_op", "batch")
    }
    variant, decoder = os.environ.get("PEERS_VARIANT", "fp32"), os.environ.get("PEERS_DECODER", "usual")
    return Settings(int(os.environ.get("PEERS_PORT", 8080)), variant, decoder, **number)


class Lesion:
    """The loaded network. All methods may be called from several threads."""

    def __init__(self, chosen: Settings) -> None:
        self.network: Network = read_network()
        self._size = (self.network.width, self.network.height)
        self._decoder = chosen.decoder
        options = onnxruntime.SessionOptions()
        if chosen.intra_op:
            options.intra_op_num_threads = chosen.intra_op
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        graph = self.network.files[chosen.variant]
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def tensor(self, body: bytes) -> NDArray[np.uint8]:
        """The bytes of a file -> uint8 [height, width, 3]."""
        return self.tensor_of(Image.open(io.BytesIO(body)))

    def tensor_of(self, image: Image.Image) -> NDArray[np.uint8]:
        """An opened picture -> uint8 [height, width, 3]."""
        if self._decoder == "usual":
            return self._resized(image.convert("RGB"))
        side = self.network.reduced_decode_factor * max(self._size)
        image.draft("RGB", (side, side))
        image.load()
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        upright = ImageOps.exif_transpose(image) if turned else image
        return self._resized(upright if upright.mode == "RGB" else upright.convert("RGB"))

    def _resized(self, rgb: Image.Image) -> NDArray[np.uint8]:
        if self.network.resize == "center_crop":
            return np.asarray(ImageOps.fit(rgb, self._size, Image.Resampling.BILINEAR))
        return np.asarray(rgb.resize(self._size, Image.Resampling.BILINEAR))

    def infer(self, tensors: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """N tensors -> probabilities float32 [N, classes], in one run."""
        found: list[NDArray[np.float32]] = self._session.run(
            [self.network.output], {self.network.input: np.stack(tensors)}
        )
        return found[0]

    def answer(self, probabilities: NDArray[np.float32]) -> dict[str, dict[str, float]]:
        """One row of probabilities -> what is sent back."""
        return {"probabilities": dict(zip(self.network.classes, probabilities.tolist(), strict=True))}

    def predict(self, body: bytes) -> dict[str, dict[str, float]]:
        """All of it, for one picture."""
        return self.answer(self.infer([self.tensor(body)])[0])
