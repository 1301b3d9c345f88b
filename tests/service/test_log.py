"""The log holds nobody up, and says what it left out."""

import json
import os
import subprocess
import sys

import httpx
import pytest

from tests.conftest import ROOT, clean_environment

LINES = 800  # more than a pipe's 64 KiB


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not tell whether a pipe has room")
def test_a_reader_that_stands_still_stops_nobody() -> None:
    """Requests are answered while nobody reads the log; the next line that is written tells how many are missing."""
    ours, theirs = os.pipe()
    with (
        os.fdopen(ours) as log,
        subprocess.Popen(
            [sys.executable, "-m", "service", "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
            cwd=ROOT,
            env=clean_environment(),
        ) as process,
    ):
        os.close(theirs)
        try:
            assert process.stdout
            url = process.stdout.readline().split()[-1]
            with httpx.Client(base_url=url, timeout=30) as client:
                for _ in range(LINES):
                    assert client.get("/nothing").status_code == 404
                lines = [json.loads(log.readline()) for _ in range(100)]
                client.get("/nothing")
        except BaseException:
            process.kill()  # a service that waits for its reader would not hear anything else
            raise
        process.terminate()
        lines += [json.loads(line) for line in log]
        assert process.wait(60) == 0
    requests = sum(line["event"] == "request" for line in lines)
    assert requests < LINES, "the pipe took all: the test tells nothing"
    assert requests + sum(line.get("lines_lost_before", 0) for line in lines) == LINES + 1
