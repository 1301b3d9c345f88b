"""Fixtures of the load test's tests."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from loadtests.http_client import ConnectionPool, Origin
from tests.loadtests.scripted_server import ScriptedServer


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    """A scripted server on a free local port, in the test's own event loop."""
    scripted = ScriptedServer()
    listener = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    scripted.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    yield scripted
    listener.close()
    await scripted.hang_up()


@pytest.fixture
async def pool(server: ScriptedServer) -> AsyncIterator[ConnectionPool]:
    """Connections to the scripted server."""
    connections = ConnectionPool(Origin(server.url))
    yield connections
    connections.close()
    await asyncio.sleep(0)  # the event loop closes them in its next round
