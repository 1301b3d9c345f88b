"""A small real HTTP server whose answers a test scripts, so that delays, refusals and faults are known."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

PREDICTION = {
    "request_id": "r",
    "model": {"name": "lesion7", "version": "3", "digest": "sha256:00"},
    "diagnoses": [{"code": "mel", "probability": 0.7}, {"code": "nv", "probability": 0.2}],
    "probabilities": {"mel": 0.7, "nv": 0.2, "bcc": 0.1},
}


@dataclass
class Reply:
    """What the server sends: status, body, extra headers; or `raw` bytes as they are."""

    status: int = 200
    body: bytes = json.dumps(PREDICTION).encode()
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None

    def encode(self) -> bytes:
        """The answer on the wire."""
        if self.raw is not None:
            return self.raw
        headers = {"Content-Length": str(len(self.body)), **self.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {self.status} Scripted\r\n{lines}\r\n".encode() + self.body


REFUSAL = Reply(503, b"{}", {"Retry-After": "1"})
Script = Callable[[int], Awaitable[Reply]]


async def predict_at_once(number: int) -> Reply:
    """The script of a healthy service; `number` counts predictions from 0."""
    del number
    return Reply()


class ScriptedServer:
    """Answers POST by the script, /readyz by `ready`, /metrics by `metrics_text`; counts what it sees."""

    def __init__(self) -> None:
        self.script: Script = predict_at_once
        self.ready = Reply(200, b"{}")
        self.metrics_text = ""
        self.body_bytes: list[int] = []  # of every prediction
        self.answers_before_the_body = False
        self.predictions = 0
        self.connections = 0
        self.heads: list[str] = []
        self.on_departure: Callable[[], None] = lambda: None  # called when a caller leaves without its answer
        self.url = ""
        self._conversations: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        conversation = asyncio.current_task()
        assert conversation
        self._conversations.add(conversation)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                await self._answer(head, reader, writer)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            pass
        finally:
            self._conversations.discard(conversation)
            writer.transport.abort()

    @property
    def open_connections(self) -> int:
        """Conversations that go on."""
        return len(self._conversations)

    async def hang_up(self) -> None:
        """End every connection."""
        for conversation in (conversations := list(self._conversations)):
            conversation.cancel()
        await asyncio.gather(*conversations, return_exceptions=True)
        await asyncio.sleep(0)

    async def _answer(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reply = await self._reply(head, reader)
        writer.write(reply.encode())
        await writer.drain()
        if reply.raw is not None and b"HTTP/1.1 200" not in reply.raw:
            raise ConnectionError
        if self.answers_before_the_body and head.startswith("POST"):
            await reader.readexactly(content_length(head))

    async def _reply(self, head: str, reader: asyncio.StreamReader) -> Reply:
        self.heads.append(head)
        if head.startswith("GET /metrics"):
            return Reply(200, self.metrics_text.encode())
        if head.startswith("GET"):
            return self.ready
        if not self.answers_before_the_body:
            await reader.readexactly(content_length(head))
        self.predictions += 1
        self.body_bytes.append(content_length(head))
        number = self.predictions - 1
        return await (self.script(number) if self.answers_before_the_body else self._unless_gone(number, reader))

    async def _unless_gone(self, number: int, reader: asyncio.StreamReader) -> Reply:
        """The script's reply; raises ConnectionError when the caller leaves before."""
        reply = asyncio.ensure_future(self.script(number))
        departure = asyncio.ensure_future(reader.read(1))  # callers send nothing before they have their answer
        try:
            await asyncio.wait({reply, departure}, return_when=asyncio.FIRST_COMPLETED)
            if reply.done():
                return reply.result()
            self.on_departure()
            raise ConnectionError
        finally:
            for waiting in (reply, departure):
                waiting.cancel()
            await asyncio.gather(reply, departure, return_exceptions=True)


def content_length(head: str) -> int:
    """The Content-Length of a request in bytes."""
    return int(head.lower().split("content-length: ")[1].split("\r\n")[0])
