"""Callers on a bad line: hundreds of connections that announce a picture and let it drip."""

import asyncio
from collections import Counter

from loadtests.generator import PREDICTIONS
from loadtests.http_client import Origin

DECLARED_BYTES = 270_000
DRIP_BYTES = 64
DRIP_INTERVAL_SECONDS = 1.0
PAUSE_SECONDS = 0.5  # before a caller whose connection ended comes back


async def drip(origin: Origin, number: int, start_seconds: float, duration_seconds: float) -> Counter[str]:
    """Keep `number` slow uploads going from `start_seconds` on; returns how often each ending was met.

    An ending is "http_<status>" when the service answered, "closed" when it only hung up, "still_uploading" at the end.
    """
    await asyncio.sleep(start_seconds)
    endings: Counter[str] = Counter()
    ends_at = asyncio.get_running_loop().time() + duration_seconds
    async with asyncio.TaskGroup() as group:
        for index in range(number):
            # spread, so that their bytes do not come in step
            group.create_task(_caller(origin, ends_at, DRIP_INTERVAL_SECONDS * index / number, endings))
    return endings


async def _caller(origin: Origin, ends_at: float, delay_seconds: float, endings: Counter[str]) -> None:
    await asyncio.sleep(delay_seconds)
    loop = asyncio.get_running_loop()
    while loop.time() < ends_at:
        try:
            endings[await _upload(origin, ends_at)] += 1
        except OSError:
            endings["closed"] += 1
        await asyncio.sleep(max(0.0, min(PAUSE_SECONDS, ends_at - loop.time())))


async def _upload(origin: Origin, ends_at: float) -> str:
    reader, writer = await asyncio.open_connection(origin.host, origin.port, ssl=origin.tls)
    try:
        writer.write(origin.head("POST", PREDICTIONS, {"Content-Type": "image/jpeg"}, DECLARED_BYTES))
        while (left_seconds := ends_at - asyncio.get_running_loop().time()) > 0:
            writer.write(bytes(DRIP_BYTES))
            try:
                async with asyncio.timeout(min(DRIP_INTERVAL_SECONDS, left_seconds)):
                    status_line = await reader.readline()
            except TimeoutError:
                continue
            return f"http_{status_line.split()[1].decode()}" if status_line else "closed"
        return "still_uploading"
    finally:
        writer.transport.abort()
