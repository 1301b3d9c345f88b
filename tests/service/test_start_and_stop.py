"""The service starts whole or not at all, and stops without losing what it has accepted."""

import asyncio
import io
import json
import logging
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from typing_extensions import Buffer

from service.__main__ import DrainingServer
from service.lifecycle import Lifecycle
from service.log import log
from tests.conftest import ROOT, clean_environment, encoded, lesion_picture, running_service
from tests.service.stand_ins import graph, publish


def start(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", "--port", "0", *options],
        cwd=ROOT,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def assert_refused(finished: subprocess.CompletedProcess[str], *words: str) -> None:
    assert finished.returncode == 1
    lines = finished.stderr.strip().splitlines()
    assert len(lines) == 1, finished.stderr
    assert all(word in lines[0] for word in words), lines[0]


def test_a_mistyped_setting_is_refused() -> None:
    """One line that names the unknown setting."""
    assert_refused(start(DERMSERVE_DEADLINE="2"), "unknown setting DERMSERVE_DEADLINE")


def test_an_unknown_option_is_refused() -> None:
    """A mistyped option ends the start, with the usual exit code of command lines."""
    finished = start("--deadlin", "2")
    assert finished.returncode == 2
    assert "--deadlin" in finished.stderr


def test_a_wrong_value_is_refused() -> None:
    """One line that names the setting."""
    assert_refused(start(DERMSERVE_MAX_BATCH_SIZE="0"), "max_batch_size")


@pytest.mark.parametrize("file", ["fp32.onnx", "golden.npz", "manifest.json"])
def test_a_damaged_model_is_refused(tmp_path: Path, file: str) -> None:
    """A changed byte anywhere in the version: one line that names the file."""
    store = publish(tmp_path / "store", {"fp32": graph()}).root
    damaged = store / "lesion7" / "1" / file
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    assert_refused(start("--store", str(store)), "model:")


def test_a_model_that_answers_differently_is_refused(tmp_path: Path) -> None:
    """A version whose golden vectors do not come out, though every file is as published, never serves."""
    store = publish(tmp_path / "store", {"fp32": graph(gain=2.0)}, {"fp32": graph()})
    assert_refused(start("--store", str(store.root)), "golden probabilities differ")


def test_int8_that_answers_differently_here_is_not_served(tmp_path: Path) -> None:
    """`auto` serves fp32, says so in the log and at /readyz; asked for by name, int8 does not start."""
    graphs, right = {"fp32": graph(), "int8": graph(gain=2.0)}, {"fp32": graph(), "int8": graph()}
    store = publish(tmp_path / "store", graphs, right)
    with running_service(tmp_path / "log", "--store", str(store.root)) as service:
        assert httpx.get(f"{service.url}/readyz").json()["model"]["variant"] == "fp32"
        assert "int8 refused, fp32 serves" in service.log.read_text()
    assert_refused(start("--store", str(store.root), "--variant", "int8"), "int8: golden probabilities differ")


def test_a_port_in_use_is_refused() -> None:
    """One line that names address and port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_refused(start("--port", str(port)), "cannot listen on 127.0.0.1", str(port))


def test_an_unknown_model_is_refused() -> None:
    """One line that names the model."""
    assert_refused(start("--model", "nothing"), "nothing")


def test_help_explains_every_option() -> None:
    """--help lists the options with their meaning."""
    finished = start("--help")
    assert finished.returncode == 0
    assert "--deadline-seconds" in finished.stdout
    assert "the request is refused" in " ".join(finished.stdout.split())


async def test_sigterm_loses_no_accepted_request(tmp_path: Path) -> None:
    """Under load on keep-alive connections: every request that the service took is answered; exit code 0.

    A connection that still waits in the kernel when the port closes was never the service's: its caller is told so.
    """
    picture = encoded(lesion_picture())
    with running_service(tmp_path / "log") as service:
        lost: list[str] = []
        answered = [0]

        async def caller(client: httpx.AsyncClient) -> None:
            while service.process.poll() is None:
                try:
                    response = await client.post(f"{service.url}/v1/predictions", content=picture)
                except httpx.ConnectError:
                    return  # never accepted: the service is gone
                except httpx.HTTPError as error:
                    lost.append(repr(error))
                    return
                answered[0] += response.status_code == 200

        async with httpx.AsyncClient(timeout=60) as client:
            callers = [asyncio.ensure_future(caller(client)) for _ in range(8)]
            async with asyncio.timeout(60):
                while answered[0] < 20:
                    await asyncio.sleep(0.05)
            service.process.terminate()
            await asyncio.gather(*callers)
        assert await asyncio.to_thread(service.process.wait, 60) == 0
        lines = [json.loads(line) for line in service.log.read_text().splitlines()]
        taken = [line["status"] for line in lines if line.get("route") == "/v1/predictions"]
        assert taken == [200] * answered[0], f"taken, but not answered: {lost}"


def test_sigterm_before_it_listens_ends_it() -> None:
    """An orchestrator that changes its mind during a start is heard too: the signal is not swallowed."""
    script = (
        "import signal, sys\n"
        "from service import __main__ as service\n"
        "service.DrainingServer.run = lambda *_, **__: signal.raise_signal(signal.SIGTERM)\n"
        "service.main(['--port', '0'])\n"
        "sys.exit('it went on')"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=clean_environment(), capture_output=True, timeout=120, check=False
    )
    assert finished.returncode == 0, finished.stderr


async def test_a_signal_in_the_middle_of_a_log_line_stops_the_service(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A stream that is being written cannot be written to by whom it was interrupted by: stopping must not try."""
    config = uvicorn.Config(FastAPI(), log_config=None)
    config.load()
    server = DrainingServer(config, lifecycle := Lifecycle(), drain_seconds=0.01)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[])  # not `serve`, which takes the signals of the process that tests
    written: list[bytes] = []

    class Interrupted(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, line: Buffer, /) -> int:
            if not lifecycle.draining:
                server.handle_exit(signal.SIGTERM, None)
            written.append(bytes(line))
            return len(written[-1])

    stream = io.TextIOWrapper(io.BufferedWriter(Interrupted()), line_buffering=True)
    monkeypatch.setattr(sys, "stderr", stream)  # as in the service: what fails to log would be told there
    caplog.set_level(logging.INFO, "dermserve")
    logging.getLogger("dermserve").addHandler(handler := logging.StreamHandler(stream))
    try:
        log(logging.ERROR, "a line that takes long")
        assert lifecycle.draining
        async with asyncio.timeout(30):
            while not server.should_exit:
                await asyncio.sleep(0.01)
    finally:
        logging.getLogger("dermserve").removeHandler(handler)
        await server.shutdown()
    assert b"".join(written).decode().splitlines()[:2] == ["a line that takes long", "draining"]


async def test_while_draining_it_is_not_ready(tmp_path: Path) -> None:
    """/readyz turns 503 at once, requests are still answered, and connections are closed after their answer."""
    with running_service(tmp_path / "log", "--drain-seconds", "5") as service:
        service.process.terminate()
        async with httpx.AsyncClient(timeout=60, base_url=service.url) as client:
            async with asyncio.timeout(30):
                while (ready := await client.get("/readyz")).status_code != 503:
                    await asyncio.sleep(0.01)
            answer = await client.post("/v1/predictions", content=encoded(lesion_picture()))
        assert ready.json()["status"] == "draining"
        assert answer.status_code == 200
        assert answer.headers["connection"] == "close"
