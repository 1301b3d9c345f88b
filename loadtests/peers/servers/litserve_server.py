"""LitServe: as its documentation shows picture uploads; `workers` processes, batches of `batch` pictures at most."""

import os
from collections.abc import Sequence
from typing import Any

import litserve
import numpy as np
from fastapi import UploadFile
from numpy.typing import NDArray

from loadtests.peers.servers.lesion import Lesion, settings


class LesionAPI(litserve.LitAPI):
    """Decode, infer, encode; all three run in a worker process."""

    def setup(self, device: str) -> None:
        """Once in each worker."""
        self.lesion = Lesion(settings())

    def decode_request(self, request: UploadFile) -> NDArray[np.uint8]:
        """One upload -> one tensor."""
        return self.lesion.tensor(request.file.read())

    def batch(self, inputs: Sequence[NDArray[np.uint8]]) -> Sequence[NDArray[np.uint8]]:
        """Lesion.infer stacks them."""
        return inputs

    def predict(self, x: Any) -> NDArray[np.float32]:  # noqa: ANN401 - one tensor, or a batch of them
        """Without batching LitServe gives one tensor and takes one answer."""
        return self.lesion.infer(x) if isinstance(x, list) else self.lesion.infer([x])[0]

    def encode_response(self, output: NDArray[np.float32]) -> dict[str, dict[str, float]]:
        """One row of probabilities -> JSON."""
        return self.lesion.answer(output)


if __name__ == "__main__":
    chosen = settings()
    # A timeout of 0 would never gather a batch; 5 ms is short beside one run of the network.
    api = LesionAPI(max_batch_size=chosen.batch, batch_timeout=0.005 if chosen.batch > 1 else 0.0)
    light = os.environ.get("PEERS_LITSERVE_LIGHT") == "1"
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=chosen.workers, timeout=30, fast_queue=light)
    server.run(
        port=chosen.port,
        host="127.0.0.1",
        num_api_servers=1 if light else None,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
