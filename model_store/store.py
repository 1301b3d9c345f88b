"""Released versions in a directory: `<root>/<name>/<version>/` and `<root>/<name>/aliases.json`.

A version is staged beside the others, written through to the disk and moved into place by one rename: readers see
all of it or nothing. Versions never change; aliases (`production`, `previous`, ...) move, each by one atomic write.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from model_store.contract.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    Manifest,
    ModelName,
    StoredFile,
    VersionNumber,
    digest_of,
    to_bytes,
)
from model_store.errors import AliasError, DamagedVersionError, InvalidManifestError, NotInStoreError, StoreError

PRODUCTION = "production"
PREVIOUS = "previous"
SHIPPED = Path(__file__).parent / "models"  # the versions that come with the package
_ALIASES = "aliases.json"
_STAGING = ".staging-"
_ALIAS_PATTERN = TypeAdapter(ModelName)  # aliases are written like model names
_VERSION_PATTERN = TypeAdapter(VersionNumber)


@dataclass(frozen=True)
class ModelVersion:
    """A version read from disk and verified: every file's bytes are those that were published."""

    manifest: Manifest
    digest: str
    folder: Path

    def read(self, name: str) -> bytes:
        """A file's bytes, checked against the manifest as they are read. Raises DamagedVersionError."""
        expected = self.manifest.files.get(name)
        if expected is None:
            raise NotInStoreError(f"{self.folder}: the manifest lists no file {name!r}")
        try:
            data = (self.folder / name).read_bytes()
        except OSError as error:
            raise DamagedVersionError(f"{self.folder / name}: {error.strerror}") from error
        if len(data) != expected.size_bytes or hashlib.sha256(data).hexdigest() != expected.sha256:
            raise DamagedVersionError(f"{self.folder / name}: the content does not match the manifest's sha256")
        return data


class ModelStore:
    """The store under one root directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Model names that have a folder."""
        if not self.root.is_dir():
            raise NotInStoreError(f"there is no model store at {self.root}")
        return sorted(folder.name for folder in self.root.iterdir() if folder.is_dir() and folder.name[0] != ".")

    def versions(self, name: str) -> list[str]:
        """Version numbers of a model, oldest first. Staged leftovers are not versions."""
        folder = self._model_folder(name)
        return sorted((f.name for f in folder.iterdir() if f.is_dir() and f.name.isdecimal()), key=int)

    def aliases(self, name: str) -> dict[str, str]:
        """Alias -> version."""
        file = self._model_folder(name) / _ALIASES
        try:
            return TypeAdapter(dict[str, VersionNumber]).validate_json(file.read_bytes())
        except FileNotFoundError:
            return {}
        except ValidationError as error:
            raise DamagedVersionError(f"{file}: not a table of aliases") from error

    def resolve(self, name: str, alias_or_version: str) -> str:
        """The version number that an alias stands for, or the number itself. Raises NotInStoreError."""
        version = self.aliases(name).get(alias_or_version, alias_or_version)
        if version not in self.versions(name):
            raise NotInStoreError(f"model {name!r} has no version or alias {alias_or_version!r} in {self.root}")
        return version

    def open(self, name: str, alias_or_version: str) -> ModelVersion:
        """Read and check the manifest; files are checked as they are read.

        Raises NotInStoreError, DamagedVersionError.
        """
        version = self.resolve(name, alias_or_version)
        folder = self._model_folder(name) / version
        try:
            raw = (folder / MANIFEST).read_bytes()
        except OSError as error:
            raise DamagedVersionError(f"{folder / MANIFEST}: {error.strerror}") from error
        manifest = _parse_manifest(raw, folder)
        if (manifest.name, manifest.version) != (name, version):
            raise DamagedVersionError(f"{folder}: the manifest is of {manifest.name} version {manifest.version}")
        return ModelVersion(manifest, digest_of(raw), folder)

    def verify(self, name: str, alias_or_version: str) -> ModelVersion:
        """Read every file of a version against its sha256; unlisted files are an error too."""
        opened = self.open(name, alias_or_version)
        for listed in opened.manifest.files:
            opened.read(listed)
        present = {str(f.relative_to(opened.folder)) for f in opened.folder.rglob("*") if f.is_file()}
        unlisted = present - set(opened.manifest.files) - {MANIFEST}
        if unlisted:
            raise DamagedVersionError(f"{opened.folder}: files that the manifest does not list: {sorted(unlisted)}")
        return opened

    def publish(self, files: Mapping[str, bytes], fields: Mapping[str, Any]) -> ModelVersion:
        """Store `files` as the next version. `fields` are the manifest's, less version, schema_version and files.

        Durable when it returns. Publishers take turns; what a killed one left behind is cleared by the next.
        Raises InvalidManifestError before anything is visible.
        """
        name = _checked(_ALIAS_PATTERN, str(fields["name"]), "model name")
        with self._writing(name) as folder:
            for leftover in folder.glob(f"{_STAGING}*"):
                shutil.rmtree(leftover)
            version = str(max((int(v) for v in self.versions(name)), default=0) + 1)
            manifest = _build_manifest(files, {**fields, "version": version})
            staged = folder / f"{_STAGING}{version}"
            for file, data in {**files, MANIFEST: to_bytes(manifest)}.items():
                _write_durably(staged / file, data)
            for directory in [d for d in staged.rglob("*") if d.is_dir()] + [staged]:
                _sync_directory(directory)
            staged.rename(folder / version)
            _sync_directory(folder)
        return self.verify(name, version)

    def promote(self, name: str, version: str, alias: str = PRODUCTION) -> dict[str, str]:
        """Point `alias` at a verified version; where `production` stood is kept as `previous`. Returns the aliases."""
        _checked(_ALIAS_PATTERN, alias, "alias")
        if alias.isdecimal() or alias == PREVIOUS:
            raise AliasError(f"{alias!r} cannot be set by hand")
        target = self.verify(name, version).manifest.version

        def move(aliases: dict[str, str]) -> None:
            before = aliases.get(alias)
            if alias == PRODUCTION and before not in (None, target):
                aliases[PREVIOUS] = str(before)
            aliases[alias] = target

        return self._change_aliases(name, move)

    def rollback(self, name: str) -> dict[str, str]:
        """Swap `production` and `previous`, so that a second call undoes the first. Returns the aliases."""
        before = self.aliases(name)
        if PREVIOUS not in before:
            raise AliasError(f"model {name!r} has no previous version to roll back to")
        self.verify(name, before[PREVIOUS])

        def swap(aliases: dict[str, str]) -> None:
            aliases[PRODUCTION], aliases[PREVIOUS] = aliases[PREVIOUS], aliases[PRODUCTION]

        return self._change_aliases(name, swap)

    def _change_aliases(self, name: str, change: Callable[[dict[str, str]], None]) -> dict[str, str]:
        with self._writing(name) as folder:
            aliases = self.aliases(name)
            change(aliases)
            staged = folder / f".{_ALIASES}.staged"
            _write_durably(staged, (json.dumps(aliases, indent=2, sort_keys=True) + "\n").encode())
            staged.replace(folder / _ALIASES)
            _sync_directory(folder)
        return aliases

    @contextmanager
    def _writing(self, name: str) -> Iterator[Path]:
        """One writer of a model at a time; the lock goes with the process, however it ends."""
        folder = self.root / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield folder
        except OSError as error:
            raise StoreError(f"cannot write to the model store at {folder}: {error.strerror}") from error

    def _model_folder(self, name: str) -> Path:
        folder = self.root / _checked(_ALIAS_PATTERN, name, "model name")
        if not folder.is_dir():
            raise NotInStoreError(f"there is no model {name!r} in {self.root}")
        return folder


def _checked(pattern: TypeAdapter[str], text: str, what: str) -> str:
    """Names become paths, so nothing but plain names passes."""
    try:
        return pattern.validate_python(text)
    except ValidationError as error:
        raise NotInStoreError(f"{text!r} is not a valid {what}") from error


def _parse_manifest(raw: bytes, folder: Path) -> Manifest:
    try:
        found = json.loads(raw)
        schema = found.get("schema_version") if isinstance(found, dict) else None
        if schema != SCHEMA_VERSION:
            raise DamagedVersionError(
                f"{folder}: the manifest has schema {schema!r} and this release reads {SCHEMA_VERSION}: publish it anew"
            )
        return Manifest.model_validate_json(raw)
    except ValidationError as error:
        raise DamagedVersionError(f"{folder}: the manifest is not valid: {_first_line(error)}") from error
    except ValueError as error:
        raise DamagedVersionError(f"{folder}: the manifest is not JSON") from error


def _build_manifest(files: Mapping[str, bytes], fields: Mapping[str, Any]) -> Manifest:
    listed = {
        name: StoredFile(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        for name, data in sorted(files.items())
    }
    try:
        return Manifest.model_validate({**fields, "schema_version": SCHEMA_VERSION, "files": listed})
    except ValidationError as error:
        raise InvalidManifestError(f"the version was not published: {_first_line(error)}") from error


def _first_line(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


def _write_durably(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
