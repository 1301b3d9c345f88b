"""Exceptions -> RFC 9457 `application/problem+json`; the only place where errors become responses."""

import http
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from service.errors import ERRORS, ClientGoneError, InferenceFailedError, InvalidRequestError, ServiceError
from service.log import log
from service.metrics import Metrics
from service.schemas import Problem

MEDIA_TYPE = "application/problem+json"


def install_problem_handlers(app: FastAPI, metrics: Metrics) -> None:
    """Every error of every route leaves as a problem body with a stable code and the request id."""

    @app.exception_handler(ServiceError)
    async def service_error(request: Request, error: ServiceError) -> Response:
        metrics.refused(error)
        if isinstance(error, InferenceFailedError):
            log(logging.ERROR, "inference failed", exc_info=error, request_id=request.state.request_id)
        return problem_response(error, request.state.request_id)

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        return problem_response(InvalidRequestError(faults), request.state.request_id)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        phrase = http.HTTPStatus(error.status_code).phrase
        problem = Problem(
            title=phrase,
            status=error.status_code,
            detail=f"{phrase}.",
            code=phrase.lower().replace(" ", "_"),
            request_id=request.state.request_id,
        )
        return _problem_json(problem, dict(error.headers or {}))

    @app.exception_handler(ClientGoneError)
    async def client_gone(request: Request, error: ClientGoneError) -> Response:
        metrics.abandoned.inc()
        return Response(status_code=error.status)  # nobody reads it

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        log(logging.ERROR, "unexpected error", exc_info=error, request_id=request.state.request_id)
        failure = InferenceFailedError("an internal error; it is logged under the request id")
        metrics.refused(failure)
        return problem_response(failure, request.state.request_id)


def problem_response(error: ServiceError, request_id: str) -> Response:
    """The answer that tells the caller of this failure."""
    problem = Problem(
        title=error.title, status=error.status, detail=str(error) or error.title, code=error.code, request_id=request_id
    )
    return _problem_json(problem, error.headers)


def problem_responses(*errors: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI documentation of a route's errors."""
    documented: dict[int | str, dict[str, Any]] = {}
    for error in errors or ERRORS:
        entry = documented.setdefault(
            error.status, {"description": "", "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}}
        )
        entry["description"] = "; ".join(filter(None, [entry["description"], f"`{error.code}`: {error.title}"]))
    return documented


def _problem_json(problem: Problem, headers: dict[str, str]) -> Response:
    return Response(problem.model_dump_json(), problem.status, headers, media_type=MEDIA_TYPE)
