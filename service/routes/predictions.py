"""POST /v1/predictions: one picture in, two diagnoses out."""

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request

from service.errors import ClientGoneError
from service.options import Options
from service.problems import problem_responses
from service.schemas import Prediction
from service.upload import FIELD, MULTIPART, Upload, declared_bytes, read_upload

router = APIRouter()

_EXPLAIN = "class code, or `first` for the most probable: adds a picture of where the network found what speaks for it"
_PREVALENCE = "share of malignant lesions where the picture was taken: probabilities are shown for it"
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "required": True,
    "content": {
        MULTIPART: {
            "schema": {
                "type": "object",
                "required": [FIELD],
                "properties": {
                    FIELD: {"type": "string", "format": "binary"},
                    "explain": {"type": "string", "description": _EXPLAIN},
                    "prevalence": {"type": "number", "description": _PREVALENCE},
                },
            }
        },
        **{f"image/{kind}": _BINARY for kind in ("jpeg", "png", "webp", "tiff", "bmp")},
    },
}


@router.post(
    "/v1/predictions",
    summary="Classify one dermatoscopic picture",
    responses=problem_responses(),
    openapi_extra={"requestBody": _BODY},
)
async def predict(
    request: Request,
    x_timeout_seconds: Annotated[
        float | None,
        Header(gt=0, description="lowers the deadline for this request: an answer within this, or an error"),
    ] = None,
    explain: Annotated[str | None, Query(description=_EXPLAIN)] = None,
    prevalence: Annotated[float | None, Query(gt=0, lt=1, description=_PREVALENCE)] = None,
) -> Prediction:
    """The two most probable of seven diagnoses, all probabilities, the probability of malignancy, and a decision.

    The picture is analysed in memory and forgotten. The answer is preliminary until a doctor decides.
    """
    services, settings = request.app.state.services, request.app.state.settings
    deadline = min(settings.deadline_seconds, x_timeout_seconds or settings.deadline_seconds)
    declared = declared_bytes(request, settings.body_limit_bytes)

    async def receive() -> Upload:
        upload = await read_upload(request, settings.body_limit_bytes, settings.receive_timeout_seconds)
        received.set()
        return upload

    received = asyncio.Event()
    asked = Options(explain, prevalence)
    work = services.predictor.predict(request.state.request_id, receive, declared, deadline, asked)
    return await _unless_gone(request, received, work)


async def _unless_gone(request: Request, received: asyncio.Event, work: Coroutine[Any, Any, Prediction]) -> Prediction:
    """The answer; or, when the caller leaves first, stop the work and raise ClientGoneError."""
    answering = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request, received))
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        raise ClientGoneError
    finally:
        answering.cancel()
        leaving.cancel()


async def _gone(request: Request, received: asyncio.Event) -> None:
    """Return once the caller has left. Waits for the body first: until then its reader watches the connection."""
    await received.wait()
    while (await request.receive())["type"] != "http.disconnect":
        pass
