"""A service of our own for the length of a load test, or one that already runs: either way, ready to answer."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from loadtests.http_client import HttpProtocolError, Origin, fetch

START_LIMIT_SECONDS = 60.0
STOP_LIMIT_SECONDS = 40.0
POLL_SECONDS = 0.1


class ServiceUnavailableError(Exception):
    """There is no ready service to measure; the text is one line for the operator."""


async def check_ready(origin: Origin) -> None:
    """Raise ServiceUnavailableError with the reason unless the service is ready."""
    try:
        answer = await fetch(origin, "/readyz")
    except (OSError, HttpProtocolError) as error:
        raise ServiceUnavailableError(f"no service answers at {origin.url}: {error or type(error).__name__}") from error
    if answer.status != 200:
        raise ServiceUnavailableError(f"the service at {origin.url} is not ready: /readyz answers {answer.status}")


@contextlib.asynccontextmanager
async def ready_service(url: str, log_path: Path, *, start: bool) -> AsyncIterator[Origin]:
    """The service to measure, one of our own or the one at the URL, once it says that it is ready."""
    if start:
        async with started_service(log_path) as origin:
            yield origin
    else:
        origin = Origin(url)
        await check_ready(origin)
        yield origin


@contextlib.asynccontextmanager
async def started_service(log_path: Path) -> AsyncIterator[Origin]:
    """Run `python -m service` on a free port, yield where it is once it is ready, and stop it with SIGTERM."""
    port = _free_port()
    environment = os.environ | {"DERMSERVE_HOST": "127.0.0.1", "DERMSERVE_PORT": str(port)}
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 - it starts at once, and it is our own program
            [sys.executable, "-m", "service"], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        origin = Origin(f"http://127.0.0.1:{port}")
        await _wait_until_ready(origin, process, log_path)
        yield origin
    finally:
        await _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _wait_until_ready(origin: Origin, process: "subprocess.Popen[bytes]", log_path: Path) -> None:
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + START_LIMIT_SECONDS
    while True:
        if process.poll() is not None:
            raise ServiceUnavailableError(
                f"python -m service ended with status {process.returncode}: {_last_line(log_path)} (all in {log_path})"
            )
        try:
            return await check_ready(origin)
        except ServiceUnavailableError as error:
            if loop.time() > ends_at:
                raise ServiceUnavailableError(f"{error} after {START_LIMIT_SECONDS:.0f} s (see {log_path})") from error
        await asyncio.sleep(POLL_SECONDS)


def _last_line(log_path: Path) -> str:
    lines = log_path.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


async def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Let it finish what it has accepted; kill it only when it does not end."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.to_thread(process.wait, STOP_LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
