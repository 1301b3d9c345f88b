"""The storage on S3 or what speaks like it: `s3://bucket/prefix`, the rest from the usual AWS_* variables.

Layout under the prefix, every object of it written once except the records:
    <name>/aliases.json               record
    <name>/versions/<number>          {"upload": "<32 hex>"}: where the version's files are; created last, only if the
                                      number is free (`If-None-Match: *`): this one object makes the version visible
    <name>/uploads/<32 hex>/<file>    one publisher's own place: manifest.json, every file, later manifest.sig (record)

Publishers never share a place, so nothing of another can be overwritten. A place that no version points to is a dead
publisher's when nothing was stored in it for `abandoned_after_seconds`, by the server's clock; a living publisher
that stores nothing for half that time gives up.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, PreconditionError
from obstore.exceptions import UnauthenticatedError as NotLetInError
from obstore.store import S3Store

from model_store.contract.manifest import MANIFEST
from model_store.errors import DamagedVersionError, StoreError, StoreUnavailableError
from model_store.storage import ABANDONED_AFTER_SECONDS, RECORD_LIMIT_BYTES, NewVersion, OnStep, Record

_UPLOAD = re.compile(r"[0-9a-f]{32}")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_POINTER_LIMIT_BYTES = 1000
_REFUSED = re.compile(r"\b40[13] (Forbidden|Unauthorized)")
_CLIENT = {"allow_http": True, "connect_timeout": "3s", "timeout": "60s"}
_RETRY: dict[str, Any] = {"max_retries": 2, "retry_timeout": timedelta(seconds=10)}


class ObjectStorage:
    """One prefix of one bucket. Conditional writes are needed: AWS, MinIO, Ceph, R2, SeaweedFS have them."""

    def __init__(self, url: str, abandoned_after_seconds: float = ABANDONED_AFTER_SECONDS) -> None:
        self.location = url.rstrip("/")
        self._abandoned_after_seconds = abandoned_after_seconds
        self._uploads: dict[tuple[str, int], str] = {}  # never changes for a version, so it is asked for once
        parts = urlsplit(self.location)
        if not parts.netloc or parts.query or parts.username:
            raise StoreError(f"{url!r} is not a store: s3://bucket/prefix is asked for")
        with _asking(self.location):
            prefix = parts.path.strip("/") or None
            self._bucket = S3Store(parts.netloc, prefix=prefix, client_options=_CLIENT, retry_config=_RETRY)  # type: ignore[arg-type]

    def names(self) -> list[str]:
        """First parts of the keys under the prefix."""
        return self._folders("")

    def numbers(self, name: str) -> set[int]:
        """The pointers under `versions/`."""
        with _asking(self.location):
            listed = [str(o["path"]) for o in obstore.list_with_delimiter(self._bucket, f"{name}/versions")["objects"]]
            if not listed and not self._folders(name):
                raise FileNotFoundError(name)
        found = (path.rpartition("/")[2] for path in listed)
        return {int(number) for number in found if _NUMBER.fullmatch(number)}

    def read(self, name: str, number: int, file: str, limit_bytes: int) -> bytes:
        """One GET; nothing is read of what is too large."""
        return self._read(f"{name}/uploads/{self._upload(name, number)}/{file}", limit_bytes)[0]

    def files(self, name: str, number: int) -> set[str]:
        """Every object in the version's place."""
        place = f"{name}/uploads/{self._upload(name, number)}"
        with _asking(self.location):
            return {str(o["path"]).removeprefix(f"{place}/") for o in self._objects(place)}

    def record(self, name: str, record: str) -> Record:
        """The tag is the server's ETag."""
        try:
            data, tag = self._read(self._record_key(name, record), RECORD_LIMIT_BYTES)
        except FileNotFoundError:
            return Record(None, None)
        return Record(data, tag)

    def replace(self, name: str, record: str, data: bytes, seen: Record) -> bool:
        """`If-Match` the ETag that was seen, `If-None-Match: *` where there was none."""
        key = self._record_key(name, record)
        with _asking(self.location):
            try:
                obstore.put(self._bucket, key, data, mode="create" if seen.tag is None else {"e_tag": seen.tag})
            except (AlreadyExistsError, PreconditionError):
                # A lost answer makes the client ask again and meet its own write.
                return self.record(name, record).data == data
        return True

    def add(self, new: NewVersion, on_step: OnStep) -> int:
        """Files and manifest into a place of its own, then the pointer; a number that is taken means the next one."""
        place = f"{new.name}/uploads/{uuid4().hex}"
        watch = _Watch(self._abandoned_after_seconds / 2)
        on_step("begun")
        for file, data in new.files.items():
            self._store(f"{place}/{file}", data, watch)
            on_step("file stored")
        number = self._take_number(new, place, watch, on_step)
        on_step("visible")
        # The version is there: what keeps the sweep from its end now, the next publish does not meet.
        with suppress(StoreError, FileNotFoundError):
            self._sweep(new.name, number)
        on_step("swept")
        return number

    def remove(self, name: str, number: int) -> None:
        """The pointer stays and points nowhere, so that the number is never given again; then the files go."""
        upload = self._upload(name, number)
        with _asking(self.location):
            obstore.put(self._bucket, f"{name}/versions/{number}", b'{"upload": null}\n')
            self._uploads.pop((name, number), None)
            self._delete(f"{name}/uploads/{upload}")

    def _take_number(self, new: NewVersion, place: str, watch: "_Watch", on_step: OnStep) -> int:
        while True:
            number = new.number or max(self._numbers_or_none(new.name) | {new.taken()}) + 1
            self._store(f"{place}/{MANIFEST}", new.manifest_of(number), watch)
            on_step("manifest stored")
            upload = place.rpartition("/")[2]
            pointer = (json.dumps({"upload": upload}) + "\n").encode()
            with _asking(self.location):
                try:
                    obstore.put(self._bucket, f"{new.name}/versions/{number}", pointer, mode="create")
                except (AlreadyExistsError, PreconditionError) as error:
                    if self._pointer(new.name, number) == upload:
                        return number  # the answer to our own write was lost
                    if new.number:
                        raise FileExistsError(number) from error
                    continue
                return number

    def _numbers_or_none(self, name: str) -> set[int]:
        try:
            return self.numbers(name)
        except FileNotFoundError:
            return set()

    def _sweep(self, name: str, published: int) -> None:
        """Places first, pointers second: what becomes a version in between is then known as one."""
        with _asking(self.location):
            now = obstore.head(self._bucket, f"{name}/versions/{published}")["last_modified"]
            uploads = {folder for folder in self._folders(f"{name}/uploads") if _UPLOAD.fullmatch(folder)}
            pointed = {self._uploads.get((name, n)) or self._pointer(name, n) for n in self.numbers(name)}
            for orphan in uploads - pointed:
                place = f"{name}/uploads/{orphan}"
                latest = max((o["last_modified"] for o in self._objects(place)), default=now)
                if _seconds(now, latest) > self._abandoned_after_seconds:
                    self._delete(place)

    def _delete(self, place: str) -> None:
        paths = [str(o["path"]) for o in self._objects(place)]
        if paths:
            obstore.delete(self._bucket, paths)

    def _store(self, key: str, data: bytes, watch: "_Watch") -> None:
        with _asking(self.location):
            obstore.put(self._bucket, key, data, use_multipart=False)
        watch.stored(self.location)

    def _upload(self, name: str, number: int) -> str:
        known = self._uploads.get((name, number)) or self._pointer(name, number)
        if known is None:
            raise FileNotFoundError(f"{name} {number} is retired")
        self._uploads[name, number] = known
        return known

    def _pointer(self, name: str, number: int) -> str | None:
        """The place a version points to, None for a retired one. DamagedVersionError for anything else."""
        raw, _ = self._read(f"{name}/versions/{number}", _POINTER_LIMIT_BYTES)
        try:
            found = json.loads(raw)["upload"]
        except (ValueError, TypeError, KeyError) as error:
            raise DamagedVersionError(f"{self.location}/{name}/versions/{number}: not a pointer") from error
        if found is not None and not (isinstance(found, str) and _UPLOAD.fullmatch(found)):
            raise DamagedVersionError(f"{self.location}/{name}/versions/{number}: not a pointer to an upload")
        return found

    def _record_key(self, name: str, record: str) -> str:
        number, slash, file = record.partition("/")
        return f"{name}/uploads/{self._upload(name, int(number))}/{file}" if slash else f"{name}/{record}"

    def _read(self, key: str, limit_bytes: int) -> tuple[bytes, str | None]:
        with _asking(self.location):
            found = obstore.get(self._bucket, key)
            if found.meta["size"] > limit_bytes:
                raise DamagedVersionError(f"{self.location}/{key}: larger than the {limit_bytes} bytes it may have")
            return bytes(found.bytes()), found.meta["e_tag"]

    def _folders(self, place: str) -> list[str]:
        with _asking(self.location):
            found = obstore.list_with_delimiter(self._bucket, place or None)["common_prefixes"]
        return [str(path).rstrip("/").rpartition("/")[2] for path in found]

    def _objects(self, place: str) -> list[Any]:
        return [one for page in obstore.list(self._bucket, f"{place}/") for one in page]


class _Watch:
    """Ends a publisher that took so long between two steps that it may be held for dead."""

    def __init__(self, limit_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_seconds, self._clock, self._last = limit_seconds, clock, clock()

    def stored(self, location: str) -> None:
        now, before = self._clock(), self._last
        if now - before > self._limit_seconds:
            raise StoreUnavailableError(f"{location}: storing one file took longer than {self._limit_seconds:g} s")
        self._last = now


@contextmanager
def _asking(location: str) -> Iterator[None]:
    """The library's errors in the store's words; FileNotFoundError passes."""
    try:
        yield
    except (AlreadyExistsError, PreconditionError):
        raise
    except BaseError as error:
        # Listings that are refused come as general errors.
        if isinstance(error, PermissionDeniedError | NotLetInError) or _REFUSED.search(str(error)):
            raise StoreUnavailableError(f"{location}: the storage does not let us in (check AWS_*)") from error
        first = str(error).splitlines()[0][:200]
        raise StoreUnavailableError(f"{location}: the storage does not answer: {first}") from error


def _seconds(later: datetime, earlier: datetime) -> float:
    return (later - earlier).total_seconds()
