"""A request body -> the picture's bytes and what is asked for, in memory only: bounded while it is read, never spooled
to a disk.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from service.errors import ClientGoneError, InvalidRequestError, PayloadTooLargeError, UploadTimeoutError
from service.options import NAMES, Options, read_options

MULTIPART = "multipart/form-data"
FIELD = "file"


@dataclass(frozen=True)
class Upload:
    """The picture's file as it was sent, and the options among the form's fields."""

    picture: bytes
    options: Options


class _InMemoryParser(MultiPartParser):
    # A spooled file rolls over to the disk past this size; patients' pictures never may.
    spool_max_size = 2**62


def declared_bytes(request: Request, limit: int) -> int:
    """Content-Length, or `limit` where the caller does not say. Raises PayloadTooLargeError before anything is read."""
    text = request.headers.get("content-length")
    if text is None:
        return limit
    if not text.isdecimal():
        raise InvalidRequestError("the Content-Length header is not a number")
    if int(text) > limit:
        raise PayloadTooLargeError(f"the request has {int(text)} bytes; at most {limit} are accepted")
    return int(text)


async def read_upload(request: Request, limit: int, timeout_seconds: float) -> Upload:
    """The picture of a plain or a multipart body, with the form's options.

    Raises PayloadTooLargeError, UploadTimeoutError, InvalidRequestError, ClientGoneError.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            body = await _read_bounded(request, limit)
    except TimeoutError:
        raise UploadTimeoutError(f"the request body did not arrive within {timeout_seconds:g} seconds") from None
    except ClientDisconnect:
        raise ClientGoneError from None
    if request.headers.get("content-type", "").lower().startswith(MULTIPART):
        return await _read_form(request, body)
    return Upload(body, Options())


async def _read_bounded(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise PayloadTooLargeError(f"the request has more than {limit} bytes")
    return bytes(body)


async def _read_form(request: Request, body: bytes) -> Upload:
    """The one part named `file`. Its name and headers are dropped unread: they may name the patient."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await _InMemoryParser(request.headers, stream(), max_files=1, max_fields=8).parse()
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
