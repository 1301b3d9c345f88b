"""python -m loadtests: what its exit status and its one line say."""

import asyncio
import sys
import textwrap

import pytest

from loadtests.__main__ import main
from loadtests.commands.run import read_options
from tests.loadtests.scripted_server import REFUSAL, Reply


async def run_main(*arguments):
    """The command line beside the scripted server, which lives in this event loop."""
    return await asyncio.to_thread(main, list(arguments))


@pytest.fixture
def short(server, tmp_path):
    """Options of a run of half a second."""
    return ["--url", server.url, "--rate", "40", "--duration", "0.5", "--pictures", "2", "--report", str(tmp_path)]


async def test_target_met(short, tmp_path, capsys):
    """All answers in time: status 0, the verdict on standard output, two reports."""
    assert await run_main(*short) == 0
    assert "TARGET MET" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.html"}


async def test_late_answers(server, short, capsys):
    """Answers later than the target: status 1 and the reason."""

    async def script(_number):
        await asyncio.sleep(0.05)
        return Reply()

    server.script = script
    assert await run_main(*short, "--target-seconds", "0.02") == 1
    assert "later than 0.02 s" in capsys.readouterr().out


async def test_refusals(server, short):
    """Refusals: status 1, or 0 when they were expected."""

    async def script(number):
        return REFUSAL if number % 2 else Reply()

    server.script = script
    assert await run_main(*short) == 1
    assert await run_main(*short, "--expect-refusals") == 0


async def test_rate_auto(short, capsys):
    """--rate auto measures the capacity first and shows it."""
    assert await run_main(*short, "--rate", "auto", "--share", "0.1", "--capacity-seconds", "0.3") == 0
    assert "answers/s with 8 callers at once" in capsys.readouterr().out


async def test_nobody_there(capsys):
    """No service at the address: status 2 and one line."""
    assert await run_main("--url", "http://127.0.0.1:1") == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("dermserve-loadtest: no service answers at http://127.0.0.1:1")
    assert "\n" not in error


async def test_not_ready(server, short, capsys):
    """A service without a model: status 2 and one line."""
    server.ready = Reply(503, b"{}")
    assert await run_main(*short) == 2
    assert "/readyz answers 503" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong",
    [
        ["--rate", "0"],
        ["--rate", "fast"],
        ["--duration", "-1"],
        ["--url", "ftp://x"],
        ["--pictures", "0"],
        ["--nothing"],
    ],
)
def test_wrong_usage(wrong, capsys):
    """A wrong option ends with status 2 and says which."""
    with pytest.raises(SystemExit, match="2"):
        main(wrong)
    assert wrong[-1].lstrip("-") in capsys.readouterr().err


def test_help_has_examples(capsys):
    """--help shows how to use it."""
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "python -m loadtests --start-service" in capsys.readouterr().out


def test_defaults():
    """Without options: half of the capacity of the service on port 8000, and 3 seconds."""
    options = read_options([])
    assert (options.url, options.rate_per_second, options.share) == ("http://127.0.0.1:8000", None, 0.5)
    assert options.target_seconds == 3.0


SERVICE = """
    import json, os, signal, sys
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from pathlib import Path

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        def do_GET(self):
            self.answer(b"{}")
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            diagnoses = [{"code": "a"}, {"code": "b"}]
            self.answer(json.dumps({"probabilities": {"a": 0.5, "b": 0.5}, "diagnoses": diagnoses}).encode())
        def answer(self, body):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        def log_message(self, *arguments): pass

    def stop(*_):
        Path("stopped").touch()
        sys.exit(0)
    signal.signal(signal.SIGTERM, stop)
    ThreadingHTTPServer((os.environ["DERMSERVE_HOST"], int(os.environ["DERMSERVE_PORT"])), Handler).serve_forever()
"""


@pytest.fixture
def own_service(tmp_path, monkeypatch):
    """A folder in which `python -m service` is a program of the test's."""
    (tmp_path / "service").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "service" / "__main__.py"


def test_start_service(own_service, tmp_path):
    """--start-service starts python -m service where nobody else listens and stops it with SIGTERM."""
    own_service.write_text(textwrap.dedent(SERVICE))
    assert main(["--start-service", "--rate", "30", "--duration", "0.5", "--pictures", "1", "--report", "out"]) == 0
    assert (tmp_path / "stopped").exists()


def test_a_service_that_does_not_start(own_service, capsys):
    """A service that ends at once: status 2, and its last words are in the line."""
    own_service.write_text("raise SystemExit('dermserve: model: no such version')")
    assert main(["--start-service", "--pictures", "1", "--report", "out"]) == 2
    error = capsys.readouterr().err
    assert "ended with status 1: dermserve: model: no such version" in error
    assert sys.executable not in error
