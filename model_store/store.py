"""Released versions, in a directory or in object storage: read them verified, publish them whole, move their aliases.

Versions never change; aliases (`production`, `previous`, ...) move, each by one atomic write. The format is specified
in `README.md`, where the versions are kept in `storage.py` and `object_storage.py`.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import TypeAdapter, ValidationError

from model_store.aliases import PREVIOUS, PRODUCTION, AliasTable, Move, read_aliases
from model_store.cache import CACHE_LIMIT_BYTES, FileCache, RememberingStorage, StoreStatus, default_cache_folder
from model_store.contract.manifest import (
    MANIFEST,
    MANIFEST_LIMIT_BYTES,
    SCHEMA_VERSION,
    SIGNATURE,
    Manifest,
    ModelName,
    StoredFile,
    digest_of,
    first_fault,
    parse_manifest,
    to_bytes,
)
from model_store.errors import (
    AliasError,
    DamagedVersionError,
    InvalidManifestError,
    NotInStoreError,
    StoreError,
    StoreUnavailableError,
)
from model_store.signatures import TrustPolicy, read_signatures, with_signature
from model_store.storage import (
    ABANDONED_AFTER_SECONDS,
    ALIASES,
    Directory,
    NewVersion,
    OnStep,
    Record,
    Seal,
    Step,
    Storage,
    read_inside,
    seal_of,
)

__all__ = ["PREVIOUS", "PRODUCTION", "SHIPPED", "ModelStore", "ModelVersion"]

SHIPPED = Path(__file__).parent / "models"  # the versions that come with the package
_ALIAS_PATTERN = TypeAdapter(ModelName)  # aliases are written like model names
_ANY_SIGNATURES = TrustPolicy()  # none is needed, but what is there must be a signature file
_WRITE_ATTEMPTS = 20  # of who replaces a record that others replace too


@dataclass(frozen=True)
class ModelVersion:
    """A version whose manifest was read; every file is checked against it as it is read.

    `folder` holds the files of a store in a directory; those of object storage come through `fetch`: `read` knows.
    """

    manifest: Manifest
    digest: str
    folder: Path
    fetch: Callable[[str, StoredFile], bytes] | None = None
    location: str | None = None

    @property
    def place(self) -> str:
        """Where the version is, for people."""
        return self.location or str(self.folder)

    def read(self, name: str) -> bytes:
        """A file's bytes. Raises NotInStoreError, DamagedVersionError, StoreUnavailableError."""
        expected = self.manifest.files.get(name)
        if expected is None:
            raise NotInStoreError(f"{self.place}: the manifest lists no file {name!r}")
        try:
            data = self.fetch(name, expected) if self.fetch else read_inside(self.folder, name, expected.size_bytes)
        except FileNotFoundError as error:
            raise DamagedVersionError(f"{self.place}/{name}: No such file or directory") from error
        if len(data) != expected.size_bytes or hashlib.sha256(data).hexdigest() != expected.sha256:
            raise DamagedVersionError(f"{self.place}/{name}: the content does not match the manifest's sha256")
        return data

    def seal(self) -> Seal | None:
        """Equal for as long as nobody has touched a file of the version; None where only reading them can tell."""
        return None if self.fetch else seal_of(self.folder)


class ModelStore:
    """The store under a directory, or under a URL like `s3://bucket/prefix` with a cache on this machine."""

    def __init__(
        self,
        root: Path | str,
        cache: Path | None = None,
        cache_limit_bytes: int = CACHE_LIMIT_BYTES,
        abandoned_after_seconds: float = ABANDONED_AFTER_SECONDS,
    ) -> None:
        self.location = str(root)
        self.root = Path(self.location)
        self._storage: Storage = Directory(self.root)
        self._files: FileCache | None = None
        self._remembering: RememberingStorage | None = None
        if "://" in self.location:
            folder = cache or default_cache_folder()
            self._storage = self._remembering = RememberingStorage(
                _object_storage(self.location, abandoned_after_seconds), folder
            )
            self._files = FileCache(folder, cache_limit_bytes)
        self._opened_at = datetime.now(UTC)

    @property
    def status(self) -> StoreStatus:
        """Whether the storage answered when it was last asked. A directory counts as always there."""
        if self._remembering:
            return self._remembering.status
        return StoreStatus(self.location, True, self._opened_at)

    def names(self) -> list[str]:
        """Model names that have a folder."""
        with self._asking(f"there is no model store at {self.location}"):
            return sorted(name for name in self._storage.names() if _fits(_ALIAS_PATTERN, name))

    def versions(self, name: str) -> list[str]:
        """Version numbers of a model, oldest first. Neither staged leftovers nor retired versions are versions."""
        return self._state(name)[1]

    def aliases(self, name: str) -> dict[str, str]:
        """Alias -> version."""
        return dict(self.alias_table(name).aliases)

    def alias_table(self, name: str) -> AliasTable:
        """The aliases with their history, and the retired versions."""
        return self._state(name)[0]

    def resolve(self, name: str, alias_or_version: str) -> str:
        """The version number that an alias stands for, or the number itself. Raises NotInStoreError."""
        table, versions = self._state(name)
        version = table.aliases.get(alias_or_version, alias_or_version)
        if version not in versions:
            raise NotInStoreError(
                f"model {name!r} has no version or alias {alias_or_version[:100]!r} in {self.location}"
            )
        return version

    def open(self, name: str, alias_or_version: str) -> ModelVersion:
        """Read and check the manifest; files are checked as they are read.

        Raises NotInStoreError, DamagedVersionError, StoreUnavailableError.
        """
        return self._open(name, self.resolve(name, alias_or_version))[0]

    def verify(self, name: str, alias_or_version: str, policy: TrustPolicy = _ANY_SIGNATURES) -> ModelVersion:
        """Read every file of a version against its sha256; unlisted files are an error too; then the signatures.

        Raises as `open` does, and UntrustedVersionError.
        """
        version = self.resolve(name, alias_or_version)
        opened, raw = self._open(name, version)
        policy.check(raw, self._signature(name, version).data, f"{name} {version}")
        for listed in opened.manifest.files:
            opened.read(listed)
        with self._asking(f"{opened.place}: gone"):
            unlisted = self._storage.files(name, int(version)) - set(opened.manifest.files) - {MANIFEST, SIGNATURE}
        if unlisted:
            shown = sorted(file[:100] for file in unlisted)[:5]
            raise DamagedVersionError(f"{opened.place}: files that the manifest does not list: {shown}")
        return opened

    def signers(self, name: str, alias_or_version: str) -> tuple[str, ...]:
        """Ids of the keys in whose name the version is signed; unchecked. Raises UntrustedVersionError."""
        version = self.resolve(name, alias_or_version)
        data = self._signature(name, version).data
        return tuple(s.key_id for s in read_signatures(data, f"{name} {version}").signatures) if data else ()

    def publish(
        self, files: Mapping[str, bytes], fields: Mapping[str, Any], on_step: OnStep | None = None
    ) -> ModelVersion:
        """Store `files` as the next version. `fields` are the manifest's, less version, schema_version and files.

        Durable when it returns; readers see the whole version or nothing. `on_step` hears of each step when it is
        done (`storage.Step`). Raises InvalidManifestError before anything is stored.
        """
        name = _checked(_ALIAS_PATTERN, str(fields["name"]), "model name")
        _build_manifest(files, {**fields, "version": "1"})
        new = NewVersion(
            name=name,
            files=files,
            manifest_of=lambda number: to_bytes(_build_manifest(files, {**fields, "version": str(number)})),
            taken=lambda: max(map(int, self._alias_record(name)[0].retired), default=0),
        )
        return self.verify(name, str(self._storage.add(new, on_step or _nobody)))

    def copy(self, version: ModelVersion, signature: bytes | None) -> ModelVersion:
        """Take in a version of another store as it is: same number, same digest. Raises InvalidManifestError."""
        name, number = version.manifest.name, int(version.manifest.version)
        raw = to_bytes(version.manifest)
        if digest_of(raw) != version.digest:
            raise InvalidManifestError(f"{version.place}: its manifest is not written as this release writes it")
        files = {file: version.read(file) for file in version.manifest.files}
        new = NewVersion(name, files, lambda _: raw, lambda: 0, number)
        if str(number) in self._alias_record(name)[0].retired:
            raise InvalidManifestError(f"{name} {number} was retired in {self.location}")
        try:
            self._storage.add(new, _nobody)
        except FileExistsError as error:
            raise InvalidManifestError(f"{self.location} has a {name} {number} already") from error
        if signature is not None:
            self._storage.replace(name, f"{number}/{SIGNATURE}", signature, Record(None, None))
        return self.verify(name, str(number))

    def signature(self, name: str, alias_or_version: str) -> bytes | None:
        """The signature file's bytes, unchecked, or None."""
        return self._signature(name, self.resolve(name, alias_or_version)).data

    def sign(self, name: str, alias_or_version: str, key: Ed25519PrivateKey) -> tuple[str, ...]:
        """Verify a version and add a signature to those it has. Returns the ids of all keys that signed."""
        version = self.verify(name, alias_or_version).manifest.version
        _, raw = self._open(name, version)
        for _ in range(_WRITE_ATTEMPTS):
            seen = self._signature(name, version)
            present = read_signatures(seen.data, f"{name} {version}").signatures if seen.data else ()
            if self._storage.replace(name, f"{version}/{SIGNATURE}", with_signature(raw, key, present), seen):
                return self.signers(name, version)
        raise StoreUnavailableError(f"{name} {version}: others were writing its signatures all the time")

    def promote(
        self, name: str, version: str, alias: str = PRODUCTION, reason: str | None = None, failed: Sequence[str] = ()
    ) -> dict[str, str]:
        """Point `alias` at a verified version; where `production` stood is kept as `previous`. Returns the aliases.

        `reason` and the gate's `failed` lines go into the history when the gate was overruled.
        """
        _checked(_ALIAS_PATTERN, alias, "alias")
        if alias.isdecimal() or alias == PREVIOUS:
            raise AliasError(f"{alias!r} cannot be set by hand")
        target = self.verify(name, version).manifest.version

        def move(table: AliasTable) -> AliasTable:
            if target in table.retired:
                raise AliasError(f"{name} {target} was retired meanwhile")
            aliases, before = dict(table.aliases), table.aliases.get(alias)
            if alias == PRODUCTION and before not in (None, target):
                aliases[PREVIOUS] = str(before)
            aliases[alias] = target
            made = Move(
                at=_now(),
                action="promote",
                alias=alias,
                from_version=before,
                to_version=target,
                reason=reason,
                failed=tuple(failed),
            )
            return table.moved(aliases, (made,))

        return self._change_aliases(name, move)

    def rollback(self, name: str) -> dict[str, str]:
        """Swap `production` and `previous`, so that a second call undoes the first. Returns the aliases."""
        verified = self.verify(name, self._previous(self.alias_table(name), name)).manifest.version

        def swap(table: AliasTable) -> AliasTable:
            before, after = table.aliases[PRODUCTION], self._previous(table, name)
            if after != verified:
                raise AliasError(f"{name}: the aliases were moved meanwhile; look and call again")
            aliases = {**table.aliases, PRODUCTION: after, PREVIOUS: before}
            made = Move(at=_now(), action="rollback", alias=PRODUCTION, from_version=before, to_version=after)
            return table.moved(aliases, (made,))

        return self._change_aliases(name, swap)

    def retire(self, name: str, version: str) -> None:
        """Remove a version for ever; its number is never given again. AliasError while an alias points at it."""
        if version not in self.versions(name):
            raise NotInStoreError(f"model {name!r} has no version {version[:100]!r} in {self.location}")

        def leave(table: AliasTable) -> AliasTable:
            pointing = sorted(alias for alias, target in table.aliases.items() if target == version)
            if pointing:
                raise AliasError(f"{name} {version} is in use: {', '.join(pointing)}")
            return table.model_copy(update={"retired": {**table.retired, version: _now()}})

        self._change_aliases(name, leave)
        with self._asking(f"{name} {version} is gone"):
            self._storage.remove(name, int(version))

    @staticmethod
    def _previous(table: AliasTable, name: str) -> str:
        if PREVIOUS not in table.aliases or PRODUCTION not in table.aliases:
            raise AliasError(f"model {name!r} has no previous version to roll back to")
        return table.aliases[PREVIOUS]

    def _state(self, name: str) -> tuple[AliasTable, list[str]]:
        """The aliases and the versions that are not retired, oldest first: two questions to the storage."""
        _checked(_ALIAS_PATTERN, name, "model name")
        with self._asking(f"there is no model {name!r} in {self.location}"):
            numbers = self._storage.numbers(name)
        table = self._alias_record(name)[0]
        return table, [str(number) for number in sorted(numbers - {int(number) for number in table.retired})]

    def _open(self, name: str, version: str) -> tuple[ModelVersion, bytes]:
        """A checked number -> the version and its manifest's own bytes."""
        place = f"{self.location}/{name}/{version}"
        try:
            raw = self._storage.read(name, int(version), MANIFEST, MANIFEST_LIMIT_BYTES)
            manifest = parse_manifest(raw)
        except FileNotFoundError as error:
            raise DamagedVersionError(f"{place}/{MANIFEST}: No such file or directory") from error
        except ValueError as error:
            raise DamagedVersionError(f"{place}: {error}") from error
        if (manifest.name, manifest.version) != (name, version):
            raise DamagedVersionError(f"{place}: the manifest is of {manifest.name} version {manifest.version}")
        folder = self._files.folder if self._files else self.root / name / version
        return ModelVersion(manifest, digest_of(raw), folder, self._fetching(name, int(version)), place), raw

    def _fetching(self, name: str, number: int) -> Callable[[str, StoredFile], bytes] | None:
        """How a version's files are read where they are not simply in a folder: cache first."""
        files, remote = self._files, self._remembering
        if files is None or remote is None:
            return None

        def fetch(file: str, expected: StoredFile) -> bytes:
            return files.read(expected, lambda: remote.fetch(name, number, file, expected.size_bytes))

        return fetch

    def _signature(self, name: str, version: str) -> Record:
        with self._asking(f"{name} {version} is gone"):
            return self._storage.record(name, f"{version}/{SIGNATURE}")

    def _alias_record(self, name: str) -> tuple[AliasTable, Record]:
        with self._asking(f"there is no model {name!r} in {self.location}"):
            seen = self._storage.record(name, ALIASES)
        return read_aliases(seen.data, f"{self.location}/{name}/{ALIASES}"), seen

    def _change_aliases(self, name: str, change: Callable[[AliasTable], AliasTable]) -> dict[str, str]:
        """Read, change, write if nobody else has written meanwhile; else again."""
        for _ in range(_WRITE_ATTEMPTS):
            table, seen = self._alias_record(name)
            changed = change(table)
            if self._storage.replace(name, ALIASES, changed.to_bytes(), seen):
                return dict(sorted(changed.aliases.items()))
        raise StoreUnavailableError(f"{name}: others were moving its aliases all the time")

    @contextmanager
    def _asking(self, missing: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise NotInStoreError(missing) from error
        except OSError as error:
            raise StoreError(f"cannot use the model store at {self.location}: {error.strerror}") from error


def _object_storage(url: str, abandoned_after_seconds: float) -> Storage:
    if not url.startswith("s3://"):
        raise StoreError(f"{url!r} is not a store: a directory or s3://bucket/prefix is asked for")
    try:
        from model_store.object_storage import ObjectStorage
    except ImportError as error:
        raise StoreError("a store in object storage needs the package obstore: install dermserve[s3]") from error
    return ObjectStorage(url, abandoned_after_seconds)


def _fits(pattern: TypeAdapter[str], text: str) -> bool:
    try:
        pattern.validate_python(text)
    except ValidationError:
        return False
    return True


def _checked(pattern: TypeAdapter[str], text: str, what: str) -> str:
    """Names become paths, so nothing but plain names passes."""
    if not _fits(pattern, text):
        raise NotInStoreError(f"{text[:100]!r} is not a valid {what}")
    return text


def _build_manifest(files: Mapping[str, bytes], fields: Mapping[str, Any]) -> Manifest:
    listed = {
        name: StoredFile(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        for name, data in sorted(files.items())
    }
    try:
        return Manifest.model_validate({**fields, "schema_version": SCHEMA_VERSION, "files": listed})
    except ValidationError as error:
        raise InvalidManifestError(f"the version was not published: {first_fault(error)}") from error


def _now() -> datetime:
    return datetime.now(UTC)


def _nobody(step: Step) -> None:
    """Hears of steps where no one else wants to."""
