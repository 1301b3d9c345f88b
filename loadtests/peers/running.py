"""One server, or one bare loop, at a time: started, asked, stopped with all of its processes."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.peers.candidates import Candidate, Way
from loadtests.peers.network import ROOT

START_LIMIT_SECONDS = 120.0
STOP_LIMIT_SECONDS = 15.0
ANSWER_LIMIT_SECONDS = 30.0
POLL_SECONDS = 0.2
HOST = "127.0.0.1"


class CandidateFailedError(Exception):
    """A candidate did not start or did not answer; the text says how, for the table."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request brought."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class RunningServer:
    """Where it listens."""

    candidate: Candidate
    way: Way
    port: int
    process_id: int

    @property
    def url(self) -> str:
        """For wrk."""
        return f"http://{HOST}:{self.port}{self.way.path}"

    def ask(self, picture: bytes) -> Answer:
        """One picture, one answer; raises OSError or http.client.HTTPException."""
        content_type, body = self.way.encode(picture)
        connection = http.client.HTTPConnection(HOST, self.port, timeout=ANSWER_LIMIT_SECONDS)
        try:
            connection.request("POST", self.way.path, body, {"Content-Type": content_type})
            answer = connection.getresponse()
            return Answer(answer.status, answer.read())
        finally:
            connection.close()


@contextlib.contextmanager
def running(candidate: Candidate, way: Way, python: Path, picture: bytes, log_path: Path) -> Iterator[RunningServer]:
    """The server, once it has answered a picture; stopped at the end. Raises CandidateFailedError."""
    port = _free_ports(3)
    environment = clean_environment(candidate.environment_variables(way, port))
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            candidate.command_line(python, way, port),
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its workers are stopped with it
        )
    try:
        server = RunningServer(candidate, way, port, process.pid)
        _wait_for_an_answer(server, process, picture, log_path)
        yield server
    finally:
        _stop(process)


def clean_environment(told: dict[str, str]) -> dict[str, str]:
    """The inherited environment without other settings of ours, with the checkout importable."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DERMSERVE_", "PEERS_"))}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | told


def last_lines(log_path: Path, number: int = 3) -> str:
    """The end of a log in one line."""
    lines = [line.strip() for line in log_path.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-number:]) or "it said nothing"


def _free_ports(number: int) -> int:
    """The first of `number` neighbouring ports that nobody listens on (MLServer takes three)."""
    while True:
        with contextlib.ExitStack() as probes, contextlib.suppress(OSError):
            first = 0
            for offset in range(number):
                probe = probes.enter_context(socket.socket())
                probe.bind((HOST, first + offset if first else 0))
                first = first or int(probe.getsockname()[1])
            return first


def _wait_for_an_answer(
    server: RunningServer, process: "subprocess.Popen[bytes]", picture: bytes, log_path: Path
) -> None:
    ends_at, found = time.monotonic() + START_LIMIT_SECONDS, "no answer"
    while time.monotonic() < ends_at:
        if process.poll() is not None:
            raise CandidateFailedError(f"ended with status {process.returncode}: {last_lines(log_path)}")
        try:
            answer = server.ask(picture)
        except (OSError, http.client.HTTPException) as error:
            found = type(error).__name__
        else:
            if answer.status == 200:
                return
            found = f"status {answer.status}: {answer.body[:200].decode(errors='replace')}"
        time.sleep(POLL_SECONDS)
    raise CandidateFailedError(f"not ready after {START_LIMIT_SECONDS:.0f} s ({found}): {last_lines(log_path)}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """SIGTERM to the server and its workers, SIGKILL to those that stay."""
    _signal_group(process, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_LIMIT_SECONDS)
    _signal_group(process, signal.SIGKILL)
    process.wait()


def _signal_group(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)  # the session's leader gave the group its id


def run_to_the_end(command: Sequence[str], told: dict[str, str]) -> str:
    """What a program of ours prints; raises CandidateFailedError with its last words."""
    finished = subprocess.run(
        command, cwd=ROOT, env=clean_environment(told), capture_output=True, text=True, check=False
    )
    if finished.returncode:
        raise CandidateFailedError(f"ended with status {finished.returncode}: {finished.stderr.strip()[-300:]}")
    return finished.stdout
