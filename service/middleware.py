"""Around every request: an id, a count, a duration, a log line, security headers; nothing that names a patient."""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import ClientGoneError
from service.lifecycle import Lifecycle
from service.log import log
from service.metrics import Metrics

REQUEST_ID = "X-Request-ID"
_SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Health checks and scrapes come every few seconds: they would drown the log.
_QUIET_ROUTES = {"/healthz", "/readyz", "/metrics"}
_NOTHING = "default-src 'none'; frame-ancestors 'none'"
# Swagger's page starts itself with an inline script; its files come from this server too.
_DOCS = "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"


class Observe:
    """ASGI middleware. Sets `scope["state"]["request_id"]`: the caller's, if it is harmless, or a new one."""

    def __init__(self, app: ASGIApp, metrics: Metrics, lifecycle: Lifecycle) -> None:
        self._app, self._metrics, self._lifecycle = app, metrics, lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        started, status = time.perf_counter(), ClientGoneError.status

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(MutableHeaders(scope=message), request_id, scope)
            await send(message)

        with self._metrics.requests_in_flight.track_inprogress():
            try:
                await self._app(scope, receive, send_with_headers)
            finally:
                self._finish(scope, request_id, status, time.perf_counter() - started)

    def _add_headers(self, headers: MutableHeaders, request_id: str, scope: Scope) -> None:
        headers[REQUEST_ID] = request_id
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "no-referrer"
        headers.setdefault("Cache-Control", "no-store")
        headers.setdefault("Content-Security-Policy", _DOCS if _route(scope) == "/docs" else _NOTHING)
        if self._lifecycle.draining:
            headers["Connection"] = "close"

    def _finish(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = _route(scope)
        self._metrics.request_finished(route, scope["method"], status, seconds)
        level = logging.DEBUG if route in _QUIET_ROUTES else logging.INFO
        milliseconds = round(seconds * 1000, 1)
        fields = {"request_id": request_id, "method": scope["method"], "route": route, "status": status}
        log(level, "request", **fields, duration_ms=milliseconds)


def _route(scope: Scope) -> str:
    """The route's template, never the path: a caller may put a name into it."""
    return str(getattr(scope.get("route"), "path", "unmatched"))


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get(REQUEST_ID, "")
    return given if _SAFE_ID.fullmatch(given) else uuid.uuid4().hex
