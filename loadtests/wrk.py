"""Closed-loop load with wrk: a few callers, each sends its next picture after its last answer.

A program that nobody here wrote measures everybody alike. A request of 270 kB costs it 66 to 90 microseconds of a core,
about as much as our own client (`http_client.py`). Requests are made beforehand, as they go over the wire; wrk only
writes them.
"""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HOW_TO_INSTALL = "wrk is not installed: `apt-get install wrk` (Debian, Ubuntu) or `brew install wrk` (macOS)"
ANSWER_LIMIT_SECONDS = 20

SCRIPT = """\
-- Each file named behind the URL is one complete HTTP request; callers take them in turn.
local requests, turn = {}, 0

function init(paths)
  for _, path in ipairs(paths) do
    local file = assert(io.open(path, "rb"))
    requests[#requests + 1] = file:read("*a")
    file:close()
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"answers": %d, "microseconds": %d, "p50_us": %d, "p99_us": %d, "max_us": %d, "statuses": %d, "sockets": %d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency.max,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
"""


class WrkMissingError(Exception):
    """wrk is not on the path."""


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """What some callers got."""

    answers_per_second: float  # of status below 400
    p50_seconds: float
    p99_seconds: float
    max_seconds: float
    refused: int  # answers of status 400 and above
    failed: int  # connections that broke, answers that did not come


def require_wrk() -> None:
    """Raise WrkMissingError unless wrk can be run."""
    if shutil.which("wrk") is None:
        raise WrkMissingError(HOW_TO_INSTALL)


def write_requests(folder: Path, path: str, bodies: Sequence[tuple[str, bytes]]) -> list[Path]:
    """POST requests, one file each: `bodies` are content types and bodies."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, (content_type, body) in enumerate(bodies):
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}"
        files.append(folder / f"{number:04}.http")
        files[-1].write_bytes(head.encode("ascii") + b"\r\n\r\n" + body)
    return files


def load(url: str, requests: Sequence[Path], *, clients: int, seconds: int) -> ClosedLoop:
    """Put a server under load; raises RuntimeError with what wrk said when it did not work."""
    script = requests[0].parent / "turns.lua"
    script.write_text(SCRIPT, encoding="ascii")
    # one thread: the callers share one list of requests, and a second thread would only compete with the server
    command = ["wrk", "--threads", "1", "--connections", str(clients), "--duration", f"{seconds}s"]
    command += ["--timeout", f"{ANSWER_LIMIT_SECONDS}s", "--script", str(script), url, "--", *map(str, requests)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"wrk: {(finished.stderr or finished.stdout).strip()}")
    return read_output(finished.stdout)


def read_output(text: str) -> ClosedLoop:
    """The line that SCRIPT prints, as figures."""
    found: dict[str, int] = json.loads(next(line for line in text.splitlines() if line.startswith("{")))
    return ClosedLoop(
        answers_per_second=(found["answers"] - found["statuses"]) / (found["microseconds"] / 1e6),
        p50_seconds=found["p50_us"] / 1e6,
        p99_seconds=found["p99_us"] / 1e6,
        max_seconds=found["max_us"] / 1e6,
        refused=found["statuses"],
        failed=found["sockets"],
    )
