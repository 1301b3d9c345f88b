"""A request body -> the picture's bytes and what is asked for, in memory only: bounded while it is read, never spooled
to a disk.

What counts against the limit on all bodies together is what has arrived, not what was announced: a caller who
announces much and sends little keeps nobody out.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Receive

from service.arrival import Arrival
from service.errors import (
    ClientGoneError,
    DeadlineExceededError,
    InvalidRequestError,
    OverloadedError,
    PayloadTooLargeError,
    UploadTimeoutError,
)
from service.options import NAMES, Options, read_options
from service.settings import Settings

MULTIPART = "multipart/form-data"
FIELD = "file"
# What an open upload takes before its first byte: buffers of the connection and the request's own objects.
_UPLOAD_BYTES = 16_384
# How long an upload may stand still, or stay below the minimum rate. A phone that changes its cell needs some seconds.
_PATIENCE_SECONDS = 5.0
_RETRY_SECONDS = 1.0  # bodies in memory are let go within a deadline: nothing tells when exactly


@dataclass(frozen=True)
class Upload:
    """The picture's file as it was sent, and the options among the form's fields."""

    picture: bytes
    options: Options


class Bodies:
    """All request bodies in memory, counted as they arrive. `observe` is told each new sum, in bytes."""

    def __init__(self, limit_bytes: int, observe: Callable[[float], None]) -> None:
        self.limit_bytes, self._observe = limit_bytes, observe
        self.held_bytes = 0

    def require_room(self) -> None:
        """Raises OverloadedError when not even an upload's beginning has room."""
        if self.held_bytes and self.held_bytes + _UPLOAD_BYTES > self.limit_bytes:
            raise OverloadedError("too many large pictures are being uploaded", _RETRY_SECONDS, reason="bytes")

    @contextmanager
    def hold(self) -> Iterator["Body"]:
        """One body, for as long as the context is open."""
        body = Body(self)
        body.grow(_UPLOAD_BYTES)
        try:
            yield body
        finally:
            self.add(-body.held_bytes)

    def add(self, count: int) -> None:
        """`count` bytes came (or, negative, went)."""
        self.held_bytes += count
        self._observe(self.held_bytes)


class Body:
    """One body's part of them."""

    def __init__(self, all_bodies: Bodies) -> None:
        self._all, self.held_bytes = all_bodies, 0

    def grow(self, count: int) -> None:
        """`count` bytes more have arrived. Raises OverloadedError over the limit; a lone body always has room."""
        others = self._all.held_bytes - self.held_bytes
        if others and self._all.held_bytes + count > self._all.limit_bytes:
            raise OverloadedError("too many large pictures are being uploaded", _RETRY_SECONDS, reason="bytes")
        self.held_bytes += count
        self._all.add(count)


async def read_upload(headers: Headers, receive: Receive, body: Body, arrival: Arrival, settings: Settings) -> Upload:
    """The picture of a plain or a multipart body, with the form's options.

    Raises PayloadTooLargeError, UploadTimeoutError, DeadlineExceededError, OverloadedError, InvalidRequestError,
    ClientGoneError.
    """
    received = await _read_in_time(receive, body, arrival, settings)
    if headers.get("content-type", "").lower().startswith(MULTIPART):
        return await _read_form(headers, received)
    return Upload(received, Options())


async def _read_in_time(receive: Receive, body: Body, arrival: Arrival, settings: Settings) -> bytes:
    """Ends uploads that take too long altogether, that stand still, and that drip."""
    loop = asyncio.get_running_loop()
    rate = settings.upload_rate_min_bytes_per_second
    ends_at = loop.time() + min(settings.receive_timeout_seconds, arrival.latest - arrival.at)
    patience_seconds = _PATIENCE_SECONDS if rate else settings.receive_timeout_seconds
    slow_at = loop.time() + patience_seconds
    chunks: list[bytes] = []
    try:
        async with asyncio.timeout_at(min(slow_at, ends_at)) as timeout:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                chunk = message.get("body", b"")
                chunks.append(chunk)
                body.grow(len(chunk))
                if body.held_bytes - _UPLOAD_BYTES > settings.body_limit_bytes:
                    raise PayloadTooLargeError(f"the request has more than {settings.body_limit_bytes} bytes")
                if not message.get("more_body", False):
                    return chunk if len(chunks) == 1 else b"".join(chunks)
                if rate:  # each byte buys time, at most the whole patience
                    slow_at = min(slow_at + len(chunk) / rate, loop.time() + patience_seconds)
                    timeout.reschedule(min(slow_at, ends_at))
    except TimeoutError:
        raise _too_slow(loop.time() >= ends_at, arrival, settings) from None


def _too_slow(ended: bool, arrival: Arrival, settings: Settings) -> DeadlineExceededError | UploadTimeoutError:
    limit = settings.receive_timeout_seconds
    if not ended:
        return UploadTimeoutError(
            f"the request body came more slowly than {settings.upload_rate_min_bytes_per_second:g} bytes/s"
        )
    if arrival.latest - arrival.at < limit:
        return DeadlineExceededError("the deadline passed while the picture was uploaded")
    return UploadTimeoutError(f"the request body did not arrive within {limit:g} seconds")


async def _read_form(headers: Headers, body: bytes) -> Upload:
    """The one part named `file`. Its name and headers are dropped unread: they may name the patient."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await _InMemoryParser(headers, stream(), max_files=1, max_fields=8).parse()
    except MultiPartException as error:
        raise InvalidRequestError("the multipart body cannot be read") from error
    try:
        part = form.get(FIELD)
        if not isinstance(part, UploadFile):
            raise InvalidRequestError(f"the form has no file in a field named '{FIELD}'")
        fields = [(name, value) for name, value in form.multi_items() if name in NAMES and isinstance(value, str)]
        return Upload(await part.read(), read_options(fields))
    finally:
        await form.close()  # frees the parser's copy of the picture


class _InMemoryParser(MultiPartParser):
    # A spooled file rolls over to the disk past this size; patients' pictures never may.
    spool_max_size = 2**62
