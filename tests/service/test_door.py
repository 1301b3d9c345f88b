"""The door, before a real uvicorn: refusals on the head alone, at once, over connections that stay usable."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI

from service.admission import Admission
from service.app import create_app
from service.registry import Registry
from service.service_times import Cost
from service.settings import Settings
from tests.conftest import encoded, lesion_picture
from tests.service.stand_ins import graph, publish

PICTURE = encoded(lesion_picture(300, 200))


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict:
        return dict(json.loads(self.body))


class Connection:
    """HTTP by hand: it shows what a library would hide."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, body: bytes, *headers: str, path: str = "/v1/predictions", length: int | None = None) -> None:
        lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {length or len(body)}", *headers, "", ""]
        self.writer.write("\r\n".join(lines).encode() + body)
        await self.writer.drain()

    async def answer(self) -> Answer:
        async with asyncio.timeout(60):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(head[0].split()[1]), headers, body)


@dataclass
class Served:
    app: FastAPI
    port: int

    @property
    def admission(self) -> Admission:
        return self.app.state.services.admission  # type: ignore[no-any-return]

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Connection(reader, writer)
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    @contextmanager
    def overloaded(self) -> Iterator[None]:
        """As if ten seconds of work waited."""
        with self.admission.enter(Cost(10.0 * 256), 1e12):
            yield

    def metric(self, line: str) -> float:
        name, _, labels = line.partition("{")
        wanted = dict(pair.split("=") for pair in labels.rstrip("}").replace('"', "").split(",") if pair)
        return self.app.state.metrics.registry.get_sample_value(name, wanted) or 0.0


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    registry = Registry(publish(tmp_path, {"fp32": graph()}), "lesion7")
    registry.load("production")
    app = create_app(Settings(), registry)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False))
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(60):
        while not server.started:
            await asyncio.sleep(0.01)
    yield Served(app, server.servers[0].sockets[0].getsockname()[1])
    server.should_exit = True
    await serving


async def test_a_refusal_needs_no_body(served: Served) -> None:
    """503 with everything an answer has, while not a byte of the body has been sent."""
    async with served.connection() as caller:
        with served.overloaded():
            await caller.send(b"", "X-Request-ID: mine", length=len(PICTURE))
            refusal = await caller.answer()
    assert (refusal.status, refusal.json["code"], refusal.json["request_id"]) == (503, "overloaded", "mine")
    assert int(refusal.headers["retry-after"]) >= 1
    assert refusal.headers["content-type"] == "application/problem+json"
    assert refusal.headers["x-request-id"] == "mine"
    assert refusal.headers["cache-control"] == "no-store"
    assert served.metric('dermserve_refusals_total{code="overloaded"}') == 1
    assert served.metric('dermserve_overload_refusals_total{reason="backlog"}') == 1
    assert served.metric('dermserve_requests_total{route="/v1/predictions",method="POST",status="503"}') == 1


async def test_the_connection_of_a_refused_caller_stays_usable(served: Served) -> None:
    """The unread body is discarded, however it comes, and the next request is answered."""
    async with served.connection() as caller:
        with served.overloaded():
            for _ in range(3):
                await caller.send(PICTURE)
                assert (await caller.answer()).status == 503
            await caller.send(PICTURE[:1000], length=len(PICTURE))
            assert (await caller.answer()).status == 503
            caller.writer.write(PICTURE[1000:])
        await caller.send(PICTURE)
        assert (await caller.answer()).status == 200


async def test_a_caller_who_expects_100_continue_is_refused_before_sending(served: Served) -> None:
    """The final answer comes in place of 100, and the connection ends: nobody knows whether a body follows."""
    async with served.connection() as caller:
        with served.overloaded():
            await caller.send(b"", "Expect: 100-continue", length=len(PICTURE))
            refusal = await caller.answer()
            assert await caller.reader.read() == b""
    assert (refusal.status, refusal.headers["connection"]) == (503, "close")


async def test_a_caller_who_expects_100_continue_and_comes_in_gets_it(served: Served) -> None:
    """First 100, then, with the body, 200."""
    async with served.connection() as caller:
        await caller.send(b"", "Expect: 100-continue", length=len(PICTURE))
        assert (await caller.answer()).status == 100
        caller.writer.write(PICTURE)
        assert (await caller.answer()).status == 200


@pytest.mark.parametrize(
    ("header", "status", "code"),
    [
        ("X-Deadline: 2020-01-01T00:00:00Z", 504, "deadline_exceeded"),
        ("X-Deadline: tomorrow", 422, "invalid_request"),
        ("X-Timeout-Seconds: 0", 422, "invalid_request"),
    ],
)
async def test_the_head_alone_can_be_wrong(served: Served, header: str, status: int, code: str) -> None:
    """Told before the body is read."""
    async with served.connection() as caller:
        await caller.send(b"", header, length=len(PICTURE))
        refusal = await caller.answer()
    assert (refusal.status, refusal.json["code"]) == (status, code)


async def test_busy_is_not_broken(served: Served) -> None:
    """In a phase of refusing /readyz answers 200 and says busy; afterwards it no longer does."""

    async def ready() -> dict:
        async with served.connection() as caller:
            caller.writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = await caller.answer()
        assert answer.status == 200
        return answer.json

    with served.overloaded():
        assert (await ready())["busy"] is True
        assert served.metric("dermserve_refusing") == 1
    assert "busy" not in await ready()
    assert served.metric("dermserve_refusing") == 0
