"""MLServer: a custom runtime of the V2 inference protocol, where the picture is one BYTES element in base64.

Beside it MLServer's way around its own protocol, a custom handler: no base64, but neither batches nor parallel workers.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from fastapi import Request
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse
from numpy.typing import NDArray

from loadtests.peers.servers.lesion import Lesion, settings


class LesionRuntime(MLModel):
    """MLServer calls predict on its event loop: the work goes to threads, or the server would stand still."""

    async def load(self) -> bool:
        """Once in each process."""
        chosen = settings()
        self.lesion, self.pool = Lesion(chosen), ThreadPoolExecutor(chosen.threads)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One request; with adaptive batching its input holds the pictures of several callers."""
        bodies = Base64Codec.decode_input(payload.inputs[0])
        probabilities = await asyncio.get_running_loop().run_in_executor(self.pool, self._infer, bodies)
        output = NumpyCodec.encode_output("probabilities", probabilities)
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=[output])

    @custom_handler(rest_path="/predict")
    async def predict_picture(self, request: Request) -> dict[str, dict[str, float]]:
        """The body is the picture."""
        body = await request.body()
        return await asyncio.get_running_loop().run_in_executor(self.pool, self.lesion.predict, body)

    def _infer(self, bodies: list[bytes]) -> NDArray[np.float32]:
        return self.lesion.infer([self.lesion.tensor(body) for body in bodies])
