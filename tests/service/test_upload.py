"""Bodies are read in memory, bounded one by one and together; whoever keeps the service waiting is ended."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from starlette.datastructures import Headers
from starlette.types import Message

from service import upload as module
from service.arrival import Arrival
from service.errors import (
    ClientGoneError,
    DeadlineExceededError,
    OverloadedError,
    PayloadTooLargeError,
    ServiceError,
    UploadTimeoutError,
)
from service.settings import Settings
from service.upload import Bodies, read_upload

ARRIVAL = Arrival(at=100.0, declared_bytes=None, allowed_seconds=3.0)
OPEN_UPLOAD_BYTES = 16_384


def bodies(limit_bytes: int = 10**9) -> tuple[Bodies, list[float]]:
    seen: list[float] = []
    return Bodies(limit_bytes, seen.append), seen


def caller(*chunks: bytes, then: Callable[[], Message] | None = None, pause_seconds: float = 0.0):
    """An ASGI `receive` that gives the chunks; after the last the body is complete, unless `then` says what comes."""

    async def messages() -> AsyncIterator[Message]:
        for number, chunk in enumerate(chunks):
            await asyncio.sleep(pause_seconds)
            more = then is not None or number < len(chunks) - 1
            yield {"type": "http.request", "body": chunk, "more_body": more}
        if then is not None:
            yield then()
        await asyncio.Event().wait()

    iterator = messages()
    return iterator.__anext__


async def read(receive, all_bodies: Bodies, arrival: Arrival = ARRIVAL, **settings: float) -> bytes:
    with all_bodies.hold() as body:
        return (await read_upload(Headers(), receive, body, arrival, Settings(**settings))).picture


async def test_a_body_in_pieces_comes_together() -> None:
    """In order, and its bytes are let go with it."""
    all_bodies, seen = bodies()
    assert await read(caller(b"abc", b"", b"def"), all_bodies) == b"abcdef"
    assert max(seen) == OPEN_UPLOAD_BYTES + 6
    assert all_bodies.held_bytes == 0


async def test_what_was_announced_counts_for_nothing() -> None:
    """Two thousand open uploads that have sent a byte leave room for others."""
    all_bodies, _ = bodies(limit_bytes=250_000_000)
    dripping = [asyncio.ensure_future(read(caller(b"x", b"y", pause_seconds=3600), all_bodies)) for _ in range(2000)]
    await asyncio.sleep(0)
    all_bodies.require_room()
    assert await read(caller(bytes(1_000_000)), all_bodies) == bytes(1_000_000)
    for upload in dripping:
        upload.cancel()
    await asyncio.gather(*dripping, return_exceptions=True)
    assert all_bodies.held_bytes == 0


async def test_bodies_together_are_bounded() -> None:
    """One that would grow over the limit is refused, and a new one is at the door; a lone one always has room."""
    all_bodies, _ = bodies(limit_bytes=100_000)
    with all_bodies.hold() as body:
        body.grow(80_000)
        with pytest.raises(OverloadedError) as refused:
            await read(caller(b"x"), all_bodies)
        assert refused.value.reason == "bytes"
        with pytest.raises(OverloadedError):
            all_bodies.require_room()
    assert await read(caller(bytes(200_000)), all_bodies) == bytes(200_000)


@pytest.mark.parametrize(
    ("receive", "settings", "error"),
    [
        (caller(b"abc", then=lambda: {"type": "http.disconnect"}), {}, ClientGoneError),
        (caller(bytes(600), bytes(600)), {"body_limit_bytes": 1000}, PayloadTooLargeError),
        (caller(b"a", b"b", pause_seconds=60), {"receive_timeout_seconds": 0.05}, UploadTimeoutError),
    ],
    ids=["gone", "too large", "too late"],
)
async def test_an_upload_that_ends_otherwise_frees_its_bytes(
    receive, settings: dict, error: type[ServiceError]
) -> None:
    """A caller who leaves, a body that grows too large, one that never ends."""
    all_bodies, _ = bodies()
    with pytest.raises(error):
        await read(receive, all_bodies, **settings)
    assert all_bodies.held_bytes == 0


@pytest.mark.parametrize("chunk", [b"x", bytes(10_000)], ids=["drips", "stands still after a large part"])
async def test_a_caller_who_dawdles_is_ended(monkeypatch: pytest.MonkeyPatch, chunk: bytes) -> None:
    """Below the minimum rate patience runs out, long before the time for a whole upload."""
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.1)
    endless = caller(chunk, *[b"x"] * 1000, pause_seconds=0.04)
    with pytest.raises(UploadTimeoutError, match="more slowly than 2000 bytes/s"):
        await read(endless, bodies()[0])


async def test_a_caller_at_the_minimum_rate_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part buys the time of the next."""
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 2.0)
    steady = caller(*[bytes(5000)] * 5, pause_seconds=0.5)
    assert len(await read(steady, bodies()[0])) == 25_000


async def test_an_absolute_deadline_ends_the_upload() -> None:
    """504: it would be too late for the answer anyway."""
    arrival = Arrival(at=100.0, declared_bytes=None, allowed_seconds=0.05, latest=100.05)
    with pytest.raises(DeadlineExceededError):
        await read(caller(b"a", b"b", pause_seconds=60), bodies()[0], arrival)
