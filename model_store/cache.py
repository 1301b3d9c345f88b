"""What was read from a remote storage, kept on this machine: checked at every reading, bounded, usable without network.

    <folder>/files/<sha256>                 contents of versions' files, whatever version they are in
    <folder>/answers/<sha256 of the key>    the last answer to each small question: versions, aliases, manifests
Every write is a rename in the same folder, so several processes may share one cache.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from model_store.contract.manifest import StoredFile
from model_store.errors import StoreUnavailableError
from model_store.storage import NewVersion, OnStep, Record, Storage

CACHE_LIMIT_BYTES = 2_000_000_000


@dataclass(frozen=True)
class StoreStatus:
    """Whether the storage answered when it was last asked; `since` is when that last changed."""

    location: str
    reachable: bool
    since: datetime
    reason: str | None = None


class FileCache:
    """Files by their content. The least recently read go first when there are more than `limit_bytes`."""

    def __init__(self, folder: Path, limit_bytes: int = CACHE_LIMIT_BYTES) -> None:
        self.folder, self._limit_bytes = folder / "files", limit_bytes

    def read(self, expected: StoredFile, fetch: Callable[[], bytes]) -> bytes:
        """The bytes from here if they are right, else fetched; wrong bytes are given on but never kept."""
        kept = self.folder / expected.sha256
        with suppress(OSError):
            data = kept.read_bytes()
            if hashlib.sha256(data).hexdigest() == expected.sha256:
                os.utime(kept)
                return data
        data = fetch()
        if hashlib.sha256(data).hexdigest() == expected.sha256:
            with suppress(OSError):  # a full disk costs time, not answers
                _write_whole(kept, data)
                self._evict(kept)
        return data

    def _evict(self, newest: Path) -> None:
        left = self._limit_bytes - newest.stat().st_size
        others = ((f.stat(), f) for f in self.folder.iterdir() if f != newest)
        for found, file in sorted(others, key=lambda pair: pair[0].st_mtime, reverse=True):
            left -= found.st_size
            if left < 0:
                file.unlink(missing_ok=True)


class RememberingStorage:
    """A storage that answers with what it last heard while the one behind it is unavailable.

    Writing is never remembered: it fails as it fails behind.
    """

    def __init__(self, behind: Storage, folder: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.location = behind.location
        self._behind, self._folder, self._now = behind, folder / "answers", now
        self.status = StoreStatus(self.location, True, now())

    def names(self) -> list[str]:
        """As last heard."""
        return [str(name) for name in self._json("names", lambda: sorted(self._behind.names()))]

    def numbers(self, name: str) -> set[int]:
        """As last heard."""
        return {int(n) for n in self._json(f"numbers {name}", lambda: sorted(self._behind.numbers(name)))}

    def read(self, name: str, number: int, file: str, limit_bytes: int) -> bytes:
        """As last heard. Large files are the file cache's: only what has no known sha256 is asked for here."""
        return self._asked(f"read {name} {number} {file}", lambda: self._behind.read(name, number, file, limit_bytes))

    def fetch(self, name: str, number: int, file: str, limit_bytes: int) -> bytes:
        """From the storage behind, not remembered here."""
        try:
            data = self._behind.read(name, number, file, limit_bytes)
        except StoreUnavailableError as error:
            self._note(str(error))
            raise
        self._note(None)
        return data

    def files(self, name: str, number: int) -> set[str]:
        """As last heard."""
        return {str(f) for f in self._json(f"files {name} {number}", lambda: sorted(self._behind.files(name, number)))}

    def record(self, name: str, record: str) -> Record:
        """As last heard; then without a tag that could be written on."""
        heard: list[Record] = []

        def ask() -> bytes:
            heard.append(self._behind.record(name, record))
            return heard[0].data or b""

        data = self._asked(f"record {name} {record}", ask)
        return heard[0] if heard else Record(data or None, None)

    def replace(self, name: str, record: str, data: bytes, seen: Record) -> bool:
        """Goes to the storage behind."""
        return self._behind.replace(name, record, data, seen)

    def add(self, new: NewVersion, on_step: OnStep) -> int:
        """Goes to the storage behind."""
        return self._behind.add(new, on_step)

    def remove(self, name: str, number: int) -> None:
        """Goes to the storage behind."""
        self._behind.remove(name, number)

    def _json(self, question: str, ask: Callable[[], list[str] | list[int]]) -> list[str | int]:
        return [*json.loads(self._asked(question, lambda: json.dumps(ask()).encode()))]

    def _asked(self, question: str, ask: Callable[[], bytes]) -> bytes:
        kept = self._folder / hashlib.sha256(f"{self.location} {question}".encode()).hexdigest()
        try:
            answer = ask()
        except StoreUnavailableError as error:
            self._note(str(error))
            try:
                return kept.read_bytes()
            except OSError:
                raise error from None
        self._note(None)
        with suppress(OSError):
            if not kept.is_file() or kept.read_bytes() != answer:
                _write_whole(kept, answer)
        return answer

    def _note(self, reason: str | None) -> None:
        reachable = reason is None
        since = self.status.since if reachable == self.status.reachable else self._now()
        self.status = StoreStatus(self.location, reachable, since, reason)


def default_cache_folder() -> Path:
    """`$XDG_CACHE_HOME/dermserve`, where caches of a user go; the temporary folder for who has no home."""
    named = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(named) if named else Path.home() / ".cache") / "dermserve"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "dermserve-cache"


def _write_whole(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, staged = tempfile.mkstemp(dir=file.parent, prefix=".staged-")
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
        Path(staged).replace(file)
    except OSError:
        Path(staged).unlink(missing_ok=True)
        raise
