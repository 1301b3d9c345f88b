"""Exceptions -> RFC 9457 `application/problem+json`; the only place where errors become responses."""

import http
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from service.errors import ERRORS, ClientGoneError, InferenceFailedError, InvalidRequestError, ServiceError
from service.log import log
from service.metrics import Metrics
from service.schemas import Problem

MEDIA_TYPE = "application/problem+json"


def install_problem_handlers(app: FastAPI, metrics: Metrics) -> None:
    """Every error of every route leaves as a problem body with a stable code and the request id."""

    @app.exception_handler(ServiceError)
    async def service_error(request: Request, error: ServiceError) -> JSONResponse:
        metrics.refused(error.code)
        if isinstance(error, InferenceFailedError):
            log(logging.ERROR, "inference failed", exc_info=error, request_id=request.state.request_id)
        return _response(request, type(error), str(error), error.headers)

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        return _response(request, InvalidRequestError, faults, {})

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
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
    async def client_gone(request: Request, error: ClientGoneError) -> JSONResponse:
        metrics.abandoned.inc()
        return JSONResponse(None, error.status)  # nobody reads it

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        log(logging.ERROR, "unexpected error", exc_info=error, request_id=request.state.request_id)
        metrics.refused(InferenceFailedError.code)
        return _response(request, InferenceFailedError, "an internal error; it is logged under the request id", {})


def problem_responses(*errors: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI documentation of a route's errors."""
    documented: dict[int | str, dict[str, Any]] = {}
    for error in errors or ERRORS:
        entry = documented.setdefault(
            error.status, {"description": "", "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}}
        )
        entry["description"] = "; ".join(filter(None, [entry["description"], f"`{error.code}`: {error.title}"]))
    return documented


def _response(request: Request, kind: type[ServiceError], detail: str, headers: dict[str, str]) -> JSONResponse:
    problem = Problem(
        title=kind.title,
        status=kind.status,
        detail=detail or kind.title,
        code=kind.code,
        request_id=request.state.request_id,
    )
    return _problem_json(problem, headers)


def _problem_json(problem: Problem, headers: dict[str, str]) -> JSONResponse:
    return JSONResponse(problem.model_dump(), problem.status, headers, media_type=MEDIA_TYPE)
