"""A store on S3 whose network is cut goes on with what it has, says so, and recovers by itself."""

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from model_store.cache import FileCache
from model_store.contract.manifest import StoredFile
from model_store.errors import StoreUnavailableError
from model_store.store import ModelStore
from tests.model_store.builders import FILES, fields
from tests.model_store.places import S3Place


class Cable:
    """A TCP relay to the S3 server that can be cut: connections end, new ones are refused."""

    def __init__(self, target: int) -> None:
        self._target, self._open = target, set[socket.socket]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.plugged = True
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self.plugged = False
        for end in list(self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def plug(self) -> None:
        self.plugged = True

    def close(self) -> None:
        self.cut()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if not self.plugged:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._target))
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        self._open |= {source, sink}
        with suppress(OSError), source, sink:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)
        self._open -= {source, sink}


@pytest.fixture
def cable(s3_place: S3Place) -> Iterator[Cable]:
    made = Cable(s3_place.server.port)
    yield made
    made.close()


@pytest.fixture
def far(s3_place: S3Place, cable: Cable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    """A store at the other end of the cable, with two versions and version 2 in production."""
    near = s3_place.store()
    for _ in range(2):
        near.publish(FILES, fields())
    near.promote("lesion7", "2")
    return connected(s3_place, cable, tmp_path / "far", monkeypatch)


def connected(place: S3Place, cable: Cable, cache: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    for name, value in place.server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{cable.port}")
    return ModelStore(place.location, cache)


def test_with_the_network_cut_what_was_read_stays(far: ModelStore, cable: Cable) -> None:
    """By alias and number, every file; the status tells since when and why; a version never read cannot be had."""
    before = far.verify("lesion7", "production")
    assert far.names() == ["lesion7"]
    assert far.status.reachable
    cable.cut()
    again = far.verify("lesion7", "production")
    assert again.digest == before.digest
    assert {name: again.read(name) for name in FILES} == FILES
    assert far.names() == ["lesion7"]
    assert not far.status.reachable
    assert "does not answer" in str(far.status.reason)
    with pytest.raises(StoreUnavailableError):
        far.open("lesion7", "1")


def test_a_new_process_finds_what_the_last_one_read(
    far: ModelStore, s3_place: S3Place, cable: Cable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache outlives the process: a service can start with the network cut."""
    far.verify("lesion7", "production")
    cable.cut()
    assert connected(s3_place, cable, tmp_path / "far", monkeypatch).verify("lesion7", "production").read("model.onnx")


def test_it_recovers_by_itself(far: ModelStore, s3_place: S3Place, cable: Cable) -> None:
    """With the network back, the next question sees what happened meanwhile."""
    far.verify("lesion7", "production")
    cable.cut()
    s3_place.store().promote("lesion7", "1")
    assert far.resolve("lesion7", "production") == "2"
    since = far.status.since
    cable.plug()
    assert far.resolve("lesion7", "production") == "1"
    assert far.status.reachable
    assert far.status.since > since


def test_nothing_is_written_with_the_network_cut(far: ModelStore, cable: Cable) -> None:
    """Publishing and promoting fail plainly; nothing is done later behind anyone's back."""
    far.verify("lesion7", "2")
    cable.cut()
    with pytest.raises(StoreUnavailableError):
        far.publish(FILES, fields())
    with pytest.raises(StoreUnavailableError):
        far.promote("lesion7", "2", "candidate")
    cable.plug()
    assert far.versions("lesion7") == ["1", "2"]
    assert "candidate" not in far.aliases("lesion7")


def test_a_store_that_was_never_reached_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No server and no cache: StoreUnavailableError, in one line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")
    with pytest.raises(StoreUnavailableError) as refused:
        ModelStore("s3://models/none", tmp_path).names()
    assert "\n" not in str(refused.value)


def test_wrong_credentials_are_told_as_such(s3_place: S3Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message sends the operator to AWS_*, not to the network, and holds no secret."""
    for name, value in s3_place.server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-secret")
    with pytest.raises(StoreUnavailableError, match="does not let us in") as refused:
        ModelStore(s3_place.location, tmp_path).names()
    assert "a-wrong-secret" not in str(refused.value)


def stored(data: bytes) -> StoredFile:
    return StoredFile(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def never() -> bytes:
    raise AssertionError("this was to come from the cache")


def test_a_damaged_cache_is_fetched_anew(tmp_path: Path) -> None:
    """What was changed on this machine's disk is noticed at the next reading."""
    cache, expected = FileCache(tmp_path), stored(b"right")
    assert cache.read(expected, lambda: b"right") == b"right"
    (kept,) = cache.folder.iterdir()
    kept.write_bytes(b"wrong")
    assert cache.read(expected, lambda: b"right") == b"right"
    assert cache.read(expected, never) == b"right"


def test_wrong_bytes_are_never_kept(tmp_path: Path) -> None:
    """What does not have the expected sum is given on, for the version to refuse, and forgotten."""
    cache = FileCache(tmp_path)
    assert cache.read(stored(b"right"), lambda: b"wrong") == b"wrong"
    assert not cache.folder.exists()


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    """The least recently read files go; what was read last always stays."""
    cache = FileCache(tmp_path, limit_bytes=250)
    contents = [bytes([n]) * 100 for n in range(4)]
    for age, data in enumerate(contents):
        cache.read(stored(data), lambda data=data: data)
        os.utime(cache.folder / stored(data).sha256, (age, age))
    assert {f.read_bytes() for f in cache.folder.iterdir()} == set(contents[2:])
    cache.read(stored(b"x" * 1000), lambda: b"x" * 1000)
    assert [f.read_bytes() for f in cache.folder.iterdir()] == [b"x" * 1000]
