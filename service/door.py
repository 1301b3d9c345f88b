"""The door: a prediction that cannot be answered in time is refused on its head alone, before its body is read.

A refused caller's connection stays usable: the server discards the body as it comes, which costs next to nothing. Only
where the caller waits for `100 Continue` it is closed: whether a body follows a final answer is the caller's choice, so
nobody could tell where the next request begins.
"""

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from service.arrival import read_arrival
from service.errors import ServiceError
from service.metrics import Metrics
from service.problems import problem_response
from service.settings import Settings

PREDICTIONS = "/v1/predictions"
VERSION_PREDICTIONS = "/v1/models/{version}/predictions"
_VERSION_PATH = re.compile(r"/v1/models/([^/]+)/predictions")


class Door:
    """ASGI middleware. Sets `scope["state"]["arrival"]` of every prediction that comes in."""

    def __init__(self, app: ASGIApp, metrics: Metrics, settings: Settings) -> None:
        self._app, self._metrics, self._settings = app, metrics, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        route, version = prediction_route(scope["path"]) if scope["type"] == "http" else (None, None)
        if route is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        waits_for_continue = False
        try:
            arrival = read_arrival(scope, self._settings)
            waits_for_continue = arrival.waits_for_continue
            scope["app"].state.services.predictor.admit(arrival, version)
        except ServiceError as error:
            self._metrics.refused(error)
            response = problem_response(error, scope["state"]["request_id"])
            if waits_for_continue:
                response.headers["Connection"] = "close"
            await response(scope, receive, send)
            return
        scope["state"]["arrival"] = arrival
        await self._app(scope, receive, send)


def prediction_route(path: str) -> tuple[str | None, str | None]:
    """The template of the route that a path leads to, if it is one of predictions, and the version that it names."""
    if path == PREDICTIONS:
        return PREDICTIONS, None
    named = _VERSION_PATH.fullmatch(path)
    return (VERSION_PREDICTIONS, named[1]) if named else (None, None)
