"""Around every request: an id, a count, a duration, a log line, security headers; nothing that names a patient."""

import logging
import random
import re
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.door import prediction_route
from service.errors import ClientGoneError
from service.lifecycle import Lifecycle
from service.log import log
from service.metrics import Metrics

REQUEST_ID = "X-Request-ID"
_REQUEST_ID = REQUEST_ID.lower().encode()
_SAFE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
# Health checks and scrapes come every few seconds: they would drown the log.
_QUIET_ROUTES = {"/healthz", "/readyz", "/metrics"}
_NOTHING = b"default-src 'none'; frame-ancestors 'none'"
# Swagger's page starts itself with an inline script; its files come from this server too.
_DOCS = b"default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
_CACHE, _POLICY, _CONNECTION = b"cache-control", b"content-security-policy", b"connection"


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
                message["headers"] = self._with_headers(list(message.get("headers", ())), request_id, scope)
            await send(message)

        self._metrics.requests_in_flight.inc()
        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            self._metrics.requests_in_flight.dec()
            self._finish(scope, request_id, status, time.perf_counter() - started)

    def _with_headers(
        self, headers: list[tuple[bytes, bytes]], request_id: str, scope: Scope
    ) -> list[tuple[bytes, bytes]]:
        """ASGI's pairs of lower-case name and value, with ours."""
        given = {name for name, _ in headers}
        headers += [
            (_REQUEST_ID, request_id.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
        ]
        if _CACHE not in given:
            headers.append((_CACHE, b"no-store"))
        if _POLICY not in given:
            headers.append((_POLICY, _DOCS if _route(scope) == "/docs" else _NOTHING))
        if self._lifecycle.draining and _CONNECTION not in given:
            headers.append((_CONNECTION, b"close"))
        return headers

    def _finish(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = _route(scope)
        self._metrics.request_finished(route, scope["method"], status, seconds)
        level = logging.DEBUG if route in _QUIET_ROUTES else logging.INFO
        milliseconds = round(seconds * 1000, 1)
        fields = {"request_id": request_id, "method": scope["method"], "route": route, "status": status}
        log(level, "request", **fields, duration_ms=milliseconds)


def _route(scope: Scope) -> str:
    """The route's template, never the path: a caller may put a name into it. At the door nothing is routed yet."""
    unrouted = prediction_route(scope["path"])[0] or "unmatched"
    return str(getattr(scope.get("route"), "path", unrouted))


def _request_id(scope: Scope) -> str:
    given = next((value for name, value in scope["headers"] if name == _REQUEST_ID), b"")
    return given.decode() if _SAFE_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
