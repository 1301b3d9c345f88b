"""Where versions are kept: what the store asks of a storage, and the directory.

Layout of a directory: `<root>/<name>/<version>/<file>`, `<root>/<name>/aliases.json`. The object storage stands in
`object_storage.py`; both promise the same:
- a version becomes visible in one step, whole, and its number is taken only then;
- two publishers never write to the same place, and never take the same number;
- a record (the aliases, the signatures of a version) is replaced only by who has seen what stands there.
"""

import fcntl
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from model_store.contract.manifest import MANIFEST
from model_store.errors import DamagedVersionError, StoreError

ALIASES = "aliases.json"
RECORD_LIMIT_BYTES = 4_000_000
LOCK_WAIT_SECONDS = 600.0
ABANDONED_AFTER_SECONDS = 3600.0  # in object storage, where no lock tells who is alive
_STAGING = ".staging-"
_RECORD_STAGING = ".record.staged"
_LOCK_POLL_SECONDS = 0.05

# A publish, step by step, as its observer hears of it: each word is said when the step is done.
Step = Literal["begun", "file stored", "manifest stored", "synced", "visible", "durable", "swept"]
OnStep = Callable[[Step], None]
Seal = tuple[tuple[str, int, int, int, int, int, int], ...]  # of each path what `seal_of` says


@dataclass(frozen=True)
class Record:
    """A small file that may change: its bytes, None where there is none, and the tag of this state of it."""

    data: bytes | None
    tag: str | None


@dataclass(frozen=True)
class NewVersion:
    """What is to be published. `manifest_of` makes the manifest for the number that the storage finds free.

    `taken` gives the highest number that was ever used for a version that is gone.
    """

    name: str
    files: Mapping[str, bytes]
    manifest_of: Callable[[int], bytes]
    taken: Callable[[], int]
    number: int | None = None  # a copy of a version keeps its number


class Storage(Protocol):
    """Names and numbers that come in are checked by the store. Errors: StoreUnavailableError, else StoreError."""

    location: str

    def names(self) -> list[str]:
        """Folders of models; FileNotFoundError when there is no store."""

    def numbers(self, name: str) -> set[int]:
        """Numbers of the visible versions; FileNotFoundError when there is no such model."""

    def read(self, name: str, number: int, file: str, limit_bytes: int) -> bytes:
        """A file of a version. FileNotFoundError; DamagedVersionError if it is larger, no file, or lies elsewhere."""

    def files(self, name: str, number: int) -> set[str]:
        """Every file of a version, listed in its manifest or not."""

    def record(self, name: str, record: str) -> Record:
        """`aliases.json`, or `<number>/<file>`."""

    def replace(self, name: str, record: str, data: bytes, seen: Record) -> bool:
        """Write a record durably in one step; False when it is no longer what was `seen`."""

    def add(self, new: NewVersion, on_step: OnStep) -> int:
        """Publish; clears what dead publishers left. FileExistsError when the asked number is taken."""

    def remove(self, name: str, number: int) -> None:
        """Take a version away."""


class Directory:
    """A directory of a file system with flock and atomic renames."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = str(root)

    def names(self) -> list[str]:
        """Folders under the root."""
        return [f.name for f in self.root.iterdir() if f.is_dir() and not f.name.startswith(".")]

    def numbers(self, name: str) -> set[int]:
        """Folders that are called as a number is written; staged leftovers are not."""
        folders = (f.name for f in (self.root / name).iterdir() if f.is_dir())
        return {int(f) for f in folders if f.isascii() and f.isdecimal() and f[0] != "0" and len(f) < 10}

    def read(self, name: str, number: int, file: str, limit_bytes: int) -> bytes:
        """A regular file inside the version's folder."""
        return read_inside(self.root / name / str(number), file, limit_bytes)

    def files(self, name: str, number: int) -> set[str]:
        """All but plain folders: links and devices count as files."""
        folder = self.root / name / str(number)
        found: set[str] = set()
        for parent, folders, files in os.walk(folder):
            links = [f for f in folders if (Path(parent) / f).is_symlink()]
            found |= {(Path(parent) / f).relative_to(folder).as_posix() for f in (*files, *links)}
        return found

    def record(self, name: str, record: str) -> Record:
        """The tag is the content's sha256."""
        try:
            data = read_inside(self.root / name, record, RECORD_LIMIT_BYTES)
        except FileNotFoundError:
            return Record(None, None)
        return Record(data, hashlib.sha256(data).hexdigest())

    def replace(self, name: str, record: str, data: bytes, seen: Record) -> bool:
        """Compared and renamed under the model's lock."""
        with self._writing(name) as folder:
            if self.record(name, record) != seen:
                return False
            target = folder / record
            staged = folder / _RECORD_STAGING  # not beside the target: it would be an unlisted file of the version
            _write_durably(staged, data)
            staged.replace(target)
            _sync_directory(target.parent)
        return True

    def add(self, new: NewVersion, on_step: OnStep) -> int:
        """Staged beside the others under the lock, so whatever is staged when the lock is free belongs to the dead."""
        with self._writing(new.name) as folder:
            self._sweep(folder)
            on_step("begun")
            number = new.number or max(self.numbers(new.name) | {new.taken()}) + 1
            if (folder / str(number)).exists():
                raise FileExistsError(number)
            manifest = new.manifest_of(number)
            staged = folder / f"{_STAGING}{number}"
            for file, data in new.files.items():
                _write_durably(staged / file, data)
                on_step("file stored")
            _write_durably(staged / MANIFEST, manifest)
            on_step("manifest stored")
            for directory in [d for d in staged.rglob("*") if d.is_dir()] + [staged]:
                _sync_directory(directory)
            on_step("synced")
            staged.rename(folder / str(number))
            on_step("visible")
            _sync_directory(folder)
            on_step("durable")
        return number

    def remove(self, name: str, number: int) -> None:
        """Out of sight in one step, then deleted; a kill between leaves something that the next publish clears."""
        with self._writing(name) as folder:
            gone = folder / f"{_STAGING}gone-{number}"
            (folder / str(number)).rename(gone)
            _sync_directory(folder)
            shutil.rmtree(gone)

    @staticmethod
    def _sweep(folder: Path) -> None:
        for leftover in folder.glob(f"{_STAGING}*"):
            shutil.rmtree(leftover)

    @contextmanager
    def _writing(self, name: str) -> Iterator[Path]:
        """One writer of a model at a time; the lock goes with the process, however it ends."""
        folder = self.root / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / ".lock").open("w") as lock:
                _lock(lock.fileno(), folder)
                yield folder
        except FileExistsError:
            raise
        except OSError as error:
            raise StoreError(f"cannot write to the model store at {folder}: {error.strerror}") from error


def seal_of(folder: Path) -> Seal | None:
    """What the file system keeps of a folder and all that lies below it; None when that cannot be told.

    Whoever writes to a file, replaces, adds or removes one changes its size, its times or its number: the time of the
    last change of a file's status (ctime) cannot be set by hand.
    """
    try:
        paths = [folder, *sorted(folder.rglob("*"))]
        found = [(str(path), path.lstat()) for path in paths]
    except OSError:
        return None
    return tuple((path, s.st_dev, s.st_ino, s.st_mode, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for path, s in found)


def read_inside(folder: Path, file: str, limit_bytes: int) -> bytes:
    """A regular file that really lies in `folder`. Raises FileNotFoundError, DamagedVersionError."""
    path = folder / file
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(folder.resolve()):
            raise DamagedVersionError(f"{path}: a link leads out of its folder")
        # Without O_NONBLOCK, opening a pipe would wait for ever.
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        with open(descriptor, "rb") as opened:  # noqa: PTH123 - a descriptor, not a path
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise DamagedVersionError(f"{path}: not a regular file")
            data = opened.read(limit_bytes + 1)
    except FileNotFoundError:
        raise
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
        reason = getattr(error, "strerror", None) or "its links lead in a circle"
        raise DamagedVersionError(f"{path}: {reason}") from error
    if len(data) > limit_bytes:
        raise DamagedVersionError(f"{path}: larger than the {limit_bytes} bytes it may have")
    return data


def _lock(descriptor: int, folder: Path) -> None:
    latest = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > latest:
                raise StoreError(f"{folder}: locked by another publisher for {LOCK_WAIT_SECONDS:g} s") from error
            time.sleep(_LOCK_POLL_SECONDS)
        else:
            return


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
