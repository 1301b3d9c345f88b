"""The two kinds of storage as the tests see them from outside: files to damage, publishers to kill.

Written from the format specification alone (model_store/README.md), without the store's own code.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from unittest.mock import patch

import obstore
from obstore.store import S3Store

from model_store.store import ModelStore
from tests.model_store.s3_server import BUCKET, S3Server


class Place(Protocol):
    """Where a store is, and how its files are reached behind its back."""

    location: str

    def store(self) -> ModelStore:
        """A store that has seen nothing yet."""

    def read(self, version: str, file: str) -> bytes:
        """A file of a version of the model lesion7."""

    def write(self, version: str, file: str, data: bytes) -> None:
        """Put anything in its place."""

    def remove(self, version: str, file: str) -> None:
        """Take it away."""

    def everything(self) -> set[str]:
        """Every file of the model, by its place."""


@dataclass
class DirectoryPlace:
    root: Path

    @property
    def location(self) -> str:
        return str(self.root)

    def store(self) -> ModelStore:
        return ModelStore(self.root)

    def read(self, version: str, file: str) -> bytes:
        return (self.root / "lesion7" / version / file).read_bytes()

    def write(self, version: str, file: str, data: bytes) -> None:
        target = self.root / "lesion7" / version / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def remove(self, version: str, file: str) -> None:
        (self.root / "lesion7" / version / file).unlink()

    def everything(self) -> set[str]:
        return {str(f.relative_to(self.root / "lesion7")) for f in (self.root / "lesion7").rglob("*") if f.is_file()}


@dataclass
class S3Place:
    """`cache` is a new folder for each store, so that what a test damages is also read."""

    server: S3Server
    prefix: str
    caches: Path
    made: list[Path] = field(default_factory=list)

    @property
    def location(self) -> str:
        return f"s3://{BUCKET}/{self.prefix}"

    def store(self) -> ModelStore:
        self.made.append(self.caches / f"cache-{len(self.made)}")
        with patch.dict(os.environ, self.server.environment):
            return ModelStore(self.location, cache=self.made[-1])

    def read(self, version: str, file: str) -> bytes:
        return bytes(obstore.get(self._bucket(), self._key(version, file)).bytes())

    def write(self, version: str, file: str, data: bytes) -> None:
        obstore.put(self._bucket(), self._key(version, file), data)

    def remove(self, version: str, file: str) -> None:
        obstore.delete(self._bucket(), self._key(version, file))

    def everything(self) -> set[str]:
        return {str(one["path"]) for page in obstore.list(self._bucket(), "lesion7/") for one in page}

    def _key(self, version: str, file: str) -> str:
        pointer = json.loads(bytes(obstore.get(self._bucket(), f"lesion7/versions/{version}").bytes()))
        return f"lesion7/uploads/{pointer['upload']}/{file}"

    def _bucket(self) -> S3Store:
        return self.server.bucket(self.prefix)
