"""BentoML: the picture argument is the request's body; `workers` processes, adaptive batching if `batch` > 1."""

import bentoml
from PIL.Image import Image

from loadtests.peers.servers.lesion import Lesion, settings

chosen = settings()


@bentoml.service(
    workers=chosen.workers,
    threads=chosen.threads,
    traffic={"timeout": 30},
    logging={"access": {"enabled": False}},  # no rival writes a line for each request
)
class LesionService:
    """One of the two calls is measured: they are written as BentoML's documentation does."""

    def __init__(self) -> None:
        self.lesion = Lesion(chosen)

    @bentoml.api
    def predict(self, image: Image, /) -> dict[str, dict[str, float]]:
        """One picture."""
        return self.lesion.answer(self.lesion.infer([self.lesion.tensor_of(image)])[0])

    @bentoml.api(batchable=True, max_batch_size=max(chosen.batch, 2), max_latency_ms=30_000)
    def predict_batch(self, images: list[Image]) -> list[dict[str, dict[str, float]]]:
        """Pictures of several callers, gathered by BentoML."""
        found = self.lesion.infer([self.lesion.tensor_of(image) for image in images])
        return [self.lesion.answer(row) for row in found]
