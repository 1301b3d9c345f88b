"""Is the service alive and ready, ten times a second, while it is under load? python -m loadtests.health URL

A process of its own with a connection of its own: the generator's event loop is busy, and its delays are not the
service's. It prints a line a probe (due time, path, status, latency) until it is ended.
"""

import contextlib
import http.client
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

from loadtests.http_client import Origin

PATHS = ("/healthz", "/readyz")
PROBES_PER_SECOND = 10  # of each path
GIVE_UP_SECONDS = 5.0
FAILED = 0  # the status of a probe without an answer
END_LIMIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Probe:
    """One question and its answer."""

    due_seconds: float  # since the first probe
    path: str
    status: int
    latency_seconds: float  # from the moment it was due


@contextlib.contextmanager
def watched_health(origin: Origin) -> Iterator[list[Probe]]:
    """Probe the service while the block runs; the list is filled when it ends."""
    probes: list[Probe] = []
    with tempfile.TemporaryFile("w+") as lines:
        command = [sys.executable, "-m", "loadtests.health", origin.url]
        process = subprocess.Popen(command, stdout=lines)  # noqa: S603 - our own program, no shell
        try:
            yield probes
        finally:
            process.terminate()
            process.wait(END_LIMIT_SECONDS)
            lines.seek(0)
            # the last line may have been cut off
            probes += [read_probe(line) for line in lines if line.endswith("\n")]


def read_probe(line: str) -> Probe:
    """A line of this program's output."""
    due, path, status, latency = line.split()
    return Probe(float(due), path, int(status), float(latency))


def main() -> None:
    """Probe until the process is ended; each path in turn, so that they do not wait for each other."""
    origin = Origin(sys.argv[1])
    connections = {path: _connection(origin) for path in PATHS}
    start = time.monotonic()
    for number in itertools.count():
        path = PATHS[number % len(PATHS)]
        due = number / (PROBES_PER_SECOND * len(PATHS))
        time.sleep(max(0.0, start + due - time.monotonic()))
        status = _ask(connections[path], origin.base_path + path)
        line = f"{due:.3f} {path} {status} {time.monotonic() - start - due:.6f}"
        print(line, flush=True)  # noqa: T201 - it is what this program is for


def _connection(origin: Origin) -> http.client.HTTPConnection:
    if origin.tls:
        return http.client.HTTPSConnection(origin.host, origin.port, timeout=GIVE_UP_SECONDS, context=origin.tls)
    return http.client.HTTPConnection(origin.host, origin.port, timeout=GIVE_UP_SECONDS)


def _ask(connection: http.client.HTTPConnection, path: str) -> int:
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        connection.close()  # the next probe opens it again
        return FAILED
    return answer.status


if __name__ == "__main__":
    main()
