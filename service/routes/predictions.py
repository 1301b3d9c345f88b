"""POST /v1/predictions and /v1/models/{version}/predictions: one picture in, two diagnoses out."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, cast

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.types import Receive

from service.door import PREDICTIONS, VERSION_PREDICTIONS
from service.errors import ClientGoneError
from service.options import read_options
from service.problems import problem_responses
from service.schemas import Prediction
from service.upload import FIELD, MULTIPART, read_upload


class _AsItIs(APIRoute):
    """A route that stands in the API's document like any other and is called with nothing but the request.

    FastAPI's reading of parameters and writing of answers costs more than the rest of its way to the function.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What Starlette calls."""
        return cast(Callable[[Request], Coroutine[Any, Any, Response]], self.endpoint)


router = APIRouter(route_class=_AsItIs)

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


_TIMEOUT = "lowers the deadline for this request: an answer within this, or an error"
_DEADLINE = (
    "lowers the deadline for this request to a moment: RFC 3339 with its zone, or Unix seconds; the earlier of both "
    "headers wins"
)


def _parameter(name: str, place: str, kind: dict[str, Any], title: str, description: str) -> dict[str, Any]:
    schema = {"anyOf": [kind, {"type": "null"}], "description": description, "title": title}
    return {"name": name, "in": place, "required": False, "schema": schema, "description": description}


# Written down here, read by hand: the headers at the door, before anything else, and the query beside the form's
# fields.
_SHARE = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
_PARAMETERS = [
    _parameter("explain", "query", {"type": "string"}, "Explain", _EXPLAIN),
    _parameter("prevalence", "query", _SHARE, "Prevalence", _PREVALENCE),
    _parameter("x-timeout-seconds", "header", {"type": "number", "exclusiveMinimum": 0}, "X-Timeout-Seconds", _TIMEOUT),
    _parameter("x-deadline", "header", {"type": "string"}, "X-Deadline", _DEADLINE),
]


_VERSION = {
    "name": "version",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "title": "Version"},
    "description": "number or alias of a version that is loaded",
}


@router.post(
    VERSION_PREDICTIONS,
    summary="Classify one dermatoscopic picture with one of the loaded versions",
    response_model=Prediction,
    responses=problem_responses(),
    openapi_extra={"requestBody": _BODY, "parameters": [_VERSION, *_PARAMETERS]},
)
@router.post(
    PREDICTIONS,
    summary="Classify one dermatoscopic picture",
    response_model=Prediction,
    responses=problem_responses(),
    openapi_extra={"requestBody": _BODY, "parameters": _PARAMETERS},
)
async def predict(request: Request) -> Response:
    """The two most probable of seven diagnoses, all probabilities, the probability of malignancy, and a decision.

    The picture is analysed in memory and forgotten. The answer is preliminary until a doctor decides.
    """
    services, settings, arrival = request.app.state.services, request.app.state.settings, request.state.arrival
    query = read_options(request.query_params.multi_items())
    with services.bodies.hold() as body:
        work = services.predictor.predict(
            request.state.request_id,
            arrival,
            await read_upload(request.headers, request.receive, body, arrival, settings),
            query,
            request.path_params.get("version"),
        )
        async with _while_the_caller_waits(request.receive):
            answer = await work
    return Response(answer, media_type="application/json")


@asynccontextmanager
async def _while_the_caller_waits(receive: Receive) -> AsyncIterator[None]:
    """Stop what is done inside, and raise ClientGoneError, once the caller has left. The body must have been read."""
    working, gone = cast(asyncio.Task[None], asyncio.current_task()), False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        working.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if gone and not working.uncancel():
            raise ClientGoneError from None
        raise
    finally:
        watching.cancel()
