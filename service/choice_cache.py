"""Measurements of earlier starts, a small file each: a machine need not measure the same version twice."""

import hashlib
import logging
import os
import tempfile
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from model_store.contract.manifest import VariantName
from service.choice import Choice, Measured, Wishes, choose
from service.log import log
from service.machine import Machine


class _Key(BaseModel):
    """Measurements hold for exactly this. `layout` is to be raised when what is measured, or how, changes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Literal[2] = 2
    machine: Machine
    version_digest: str
    wishes: Wishes


class _Remembered(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    key: _Key
    measured: list[Measured]
    refused: dict[VariantName, str]


class ChoiceCache:
    """A folder of its own. Whatever is wrong with it costs a start a new measurement and nothing else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def recall(self, machine: Machine, version_digest: str, wishes: Wishes) -> Choice | None:
        """What was measured for exactly this, if it was and can still be read."""
        key = _Key(machine=machine, version_digest=version_digest, wishes=wishes)
        try:
            found = _Remembered.model_validate_json(self._file(key).read_bytes())
            return choose(found.measured, found.refused, wishes.set_by_hand) if found.key == key else None
        except (OSError, ValueError, KeyError):  # not there; not one of ours; figures without those of batch size 1
            return None

    def remember(self, machine: Machine, version_digest: str, wishes: Wishes, choice: Choice) -> None:
        """Keep it, where the folder can be written; readers see all of it or nothing."""
        key = _Key(machine=machine, version_digest=version_digest, wishes=wishes)
        found = _Remembered(key=key, measured=choice.measured, refused=choice.refused)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor, staged = tempfile.mkstemp(dir=self._folder)
            with os.fdopen(descriptor, "w") as out:
                out.write(found.model_dump_json(indent=1))
            Path(staged).replace(self._file(key))
        except OSError as error:  # a container with a read-only root: it measures at every start
            log(logging.INFO, "engine choice not remembered", reason=error.strerror)

    def _file(self, key: _Key) -> Path:
        return self._folder / f"{hashlib.sha256(key.model_dump_json().encode()).hexdigest()[:16]}.json"
