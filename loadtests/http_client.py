"""A very small HTTP/1.1 client: keep-alive, Content-Length and chunked answers, nothing else.

The generator shares two cores with the service it measures, so what the client costs is missing from the service.
Processor time a request of 270 kB on one core, measured in turn against the same trivial server on a busy machine:
asyncio streams about 120 us, a protocol such as this one on asyncio 82 to 105 us, on uvloop (which `python -m
loadtests` takes) 57 to 87 us, wrk 66 to 90 us. An open loop that wakes for every request needs about 220 us.
"""

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import SplitResult, urlsplit

# uvicorn closes a connection that was idle for 5 s; ours is dropped before that, so no request meets a closing one
IDLE_LIMIT_SECONDS = 3.0
HEAD_LIMIT_BYTES = 64 * 1024


class HttpProtocolError(Exception):
    """The peer sent something that is not an HTTP/1.1 answer, or closed the connection in the middle of one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One complete HTTP answer; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def keeps_connection(self) -> bool:
        """Whether another request may follow on this connection (RFC 9112, 9.3)."""
        ends_by_itself = "content-length" in self.headers or "transfer-encoding" in self.headers
        return ends_by_itself and self.headers.get("connection", "keep-alive").lower() != "close"


class Origin:
    """Where requests go: scheme, host and port of a URL such as http://127.0.0.1:8000."""

    def __init__(self, url: str) -> None:
        parts: SplitResult = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not an http(s) URL: {url!r}")
        self.host: str = parts.hostname
        self.tls: ssl.SSLContext | None = ssl.create_default_context() if parts.scheme == "https" else None
        self.port: int = parts.port or (443 if self.tls else 80)
        self.base_path: str = parts.path.rstrip("/")
        self.url: str = f"{parts.scheme}://{parts.netloc}{self.base_path}"

    def head(self, method: str, path: str, headers: Mapping[str, str] | None = None, body_bytes: int = 0) -> bytes:
        """Request line and headers, ready to send."""
        lines = [f"{method} {self.base_path}{path} HTTP/1.1", f"Host: {self.host}:{self.port}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if method != "GET":
            lines.append(f"Content-Length: {body_bytes}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


class Connection(asyncio.Protocol):
    """One TCP connection that carries one request at a time."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._answer: asyncio.Future[Answer] | None = None
        self._transport: asyncio.Transport
        self.closed = False
        self.idle_since_seconds = 0.0

    @classmethod
    async def open(cls, origin: Origin) -> "Connection":
        """Connect; raises OSError."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, origin.host, origin.port, ssl=origin.tls)
        return connection

    async def exchange(self, request: bytes) -> Answer:
        """Send one request and read its answer; raises OSError or HttpProtocolError.

        Nothing waits for the body to be sent: a server may refuse, and answer, before it has read everything.
        """
        if self.closed:
            raise HttpProtocolError("the connection was closed before the request")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class

    def data_received(self, data: bytes) -> None:
        """asyncio.Protocol."""
        self._received += data
        self._read(at_end=False)

    def connection_lost(self, error: Exception | None) -> None:
        """asyncio.Protocol."""
        self.closed = True
        if self._waiting and error is None:
            self._read(at_end=True)
        if self._waiting:
            self._fail(error if isinstance(error, OSError) else HttpProtocolError("incomplete answer: it was cut off"))

    @property
    def _waiting(self) -> bool:
        return self._answer is not None and not self._answer.done()

    def _read(self, *, at_end: bool) -> None:
        """Hand over the answer if it is complete."""
        if not self._waiting:  # an answer that nobody asked for: the connection is of no more use
            self.close()
            return
        try:
            found = _take_answer(self._received, at_end=at_end)
        except (ValueError, HttpProtocolError) as error:
            self._fail(error if isinstance(error, HttpProtocolError) else HttpProtocolError(f"not HTTP: {error}"))
            self.close()
            return
        if found is not None and self._answer is not None:
            self._answer.set_result(found)

    def _fail(self, error: Exception) -> None:
        if self._answer is not None:
            self._answer.set_exception(error)

    def close(self) -> None:
        """Drop the connection at once, whatever is still on its way."""
        self.closed = True
        self._transport.abort()


def _take_answer(received: bytearray, *, at_end: bool) -> Answer | None:
    """Cut one complete answer off the front, passing over 100 Continue and the like; None while some is missing."""
    while (head_ends := received.find(b"\r\n\r\n")) >= 0:
        status, headers = _read_head(received[:head_ends].decode("latin-1"))
        if status >= 200:
            return _take_body(received, head_ends + 4, status, headers, at_end=at_end)
        del received[: head_ends + 4]
    if len(received) > HEAD_LIMIT_BYTES:
        raise HttpProtocolError("the answer's head has no end")
    return None


def _read_head(text: str) -> tuple[int, dict[str, str]]:
    status_line, *header_lines = text.split("\r\n")
    version, status_text = status_line.split(" ", 2)[:2]
    if not version.startswith("HTTP/1."):
        raise HttpProtocolError(f"not HTTP/1: {status_line[:80]!r}")
    pairs = (line.partition(":") for line in header_lines)
    return int(status_text), {name.strip().lower(): value.strip() for name, _, value in pairs}


def _take_body(received: bytearray, start: int, status: int, headers: dict[str, str], *, at_end: bool) -> Answer | None:
    if status in (204, 304):
        end = start
    elif "chunked" in headers.get("transfer-encoding", "").lower():
        return _take_chunks(received, start, status, headers)
    elif "content-length" in headers:
        end = start + int(headers["content-length"])
    elif at_end:  # RFC 9112, 6.3: the body lasts until the connection ends
        end = len(received)
    else:
        return None
    if len(received) < end:
        return None
    body = bytes(received[start:end])
    del received[:end]
    return Answer(status, headers, body)


def _take_chunks(received: bytearray, at: int, status: int, headers: dict[str, str]) -> Answer | None:
    chunks: list[bytes] = []
    while (line_ends := received.find(b"\r\n", at)) >= 0:
        size_bytes = int(received[at:line_ends].partition(b";")[0], 16)
        if size_bytes == 0:
            # from the end of the line before: without trailers the blank line follows at once
            end = received.find(b"\r\n\r\n", line_ends)
            if end < 0:
                return None
            del received[: end + 4]
            return Answer(status, headers, b"".join(chunks))
        at = line_ends + 2 + size_bytes + 2
        if len(received) < at:
            return None
        chunks.append(bytes(received[line_ends + 2 : at - 2]))
    return None


class ConnectionPool:
    """Idle connections to one origin, the latest first, so that few of them grow cold.

    A request is never sent twice: a connection that breaks is a failure of the service and must be counted as one.
    """

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.opened = 0
        self._idle: list[Connection] = []

    async def send(self, request: bytes) -> Answer:
        """One request (head and body) and its answer; raises OSError or HttpProtocolError."""
        connection = self._take_idle()
        if connection is None:
            connection = await Connection.open(self.origin)
            self.opened += 1
        try:
            answer = await connection.exchange(request)
        except BaseException:  # a timeout cancels us: what is left of the answer must meet no other request
            connection.close()
            raise
        if answer.keeps_connection:
            connection.idle_since_seconds = time.monotonic()
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            age_seconds = time.monotonic() - connection.idle_since_seconds
            if age_seconds <= IDLE_LIMIT_SECONDS and not connection.closed:
                return connection
            connection.close()
        return None

    def close(self) -> None:
        """Drop every idle connection."""
        while self._idle:
            self._idle.pop().close()


async def fetch(origin: Origin, path: str, timeout_seconds: float = 5.0) -> Answer:
    """GET one page over a connection of its own; raises OSError (a TimeoutError too) or HttpProtocolError."""
    async with asyncio.timeout(timeout_seconds):
        connection = await Connection.open(origin)
        try:
            return await connection.exchange(origin.head("GET", path))
        finally:
            connection.close()
