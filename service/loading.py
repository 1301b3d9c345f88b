"""From the store into memory, through every check: whole files, signatures, safe graphs, golden vectors, an engine.

Everything here blocks and reads the storage: the event loop leaves it to a thread of its own.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from model_store.contract.manifest import Manifest
from model_store.errors import (
    DamagedVersionError,
    NotInStoreError,
    StoreError,
    StoreUnavailableError,
    UnsafeGraphError,
    UntrustedVersionError,
)
from model_store.graph_check import check_graphs
from model_store.signatures import TrustPolicy
from model_store.storage import Seal
from model_store.store import ModelStore, ModelVersion
from service.choice import Choice, Wishes
from service.choice_cache import ChoiceCache
from service.engine import Engine, SelfTestError
from service.log import log
from service.machine import Machine, this_machine
from service.memory import give_memory_back
from service.quick_choice import engine_beside
from service.schemas import ServingModel
from service.tuning import tuned_engine

CANDIDATE = "candidate"
_KEPT = 2  # engines: of the version that serves and of the one before it, so that a way back makes no session
# Missing; not what was published; a graph that may not be run; signatures; golden vectors; whatever nobody foresaw.
RefusalReason = Literal["not_found", "damaged", "unsafe_graph", "untrusted", "self_test", "load_failed"]
_REASONS: Sequence[tuple[type[Exception], RefusalReason]] = (
    (NotInStoreError, "not_found"),
    (UnsafeGraphError, "unsafe_graph"),
    (DamagedVersionError, "damaged"),
    (UntrustedVersionError, "untrusted"),
    (SelfTestError, "self_test"),
)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A version that answered its golden vectors rightly, the engine that runs it, and why it is this engine."""

    version: ModelVersion
    engine: Engine
    choice: Choice
    machine: Machine

    @property
    def manifest(self) -> Manifest:
        """The version's manifest."""
        return self.version.manifest

    @cached_property  # part of every answer
    def identity(self) -> ServingModel:
        """What answers say of the version."""
        return ServingModel(
            name=self.manifest.name,
            version=self.manifest.version,
            digest=self.version.digest,
            variant=self.engine.variant,
        )


@dataclass(frozen=True)
class Refusal:
    """A version that was wanted and did not pass. `digest` is None where not even its manifest can be read."""

    version: str
    digest: str | None
    reason: RefusalReason
    detail: str


class RefusedVersionError(Exception):
    """A version does not pass a check."""

    def __init__(self, reason: RefusalReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def _has_run_fp32(choice: Choice) -> bool:
    """Whether fp32 was among the engines that answered their golden vectors rightly."""
    return any(measured.variant == "fp32" for measured in choice.measured)


@dataclass(frozen=True)
class Wanted:
    """What the store says at one moment: version numbers to load, each with its digest, as Refusal has it."""

    serving: str
    beside: tuple[str, ...]
    shadow: str | None
    aliases: Mapping[str, str]
    digests: Mapping[str, str | None]


class Loader:
    """Reads one model's versions. Without a `cache` the first load measures anew what `wishes` leave open."""

    def __init__(
        self, store: ModelStore, name: str, wishes: Wishes, cache: ChoiceCache | None, policy: TrustPolicy
    ) -> None:
        self.store, self.name = store, name
        self._wishes, self._cache, self._policy = wishes, cache, policy
        # By digest, which names every byte of a version: what was found out of it once holds.
        self._choices: dict[str, Choice] = {}
        self._seals: dict[str, Seal | None] = {}  # of versions that are whole and signed, with graphs that may be run
        self._kept: dict[str, tuple[Engine, Choice]] = {}  # of the latest, the newest last

    def look(self, alias: str, also_serve: Sequence[str], *, shadow: bool) -> Wanted:
        """Ask the store what the aliases stand for now. Raises StoreError when it cannot tell."""
        aliases = self.store.aliases(self.name)
        if not self.store.status.reachable:  # it only remembers; and each further question would wait in vain
            raise StoreUnavailableError(self.store.status.reason or "the store does not answer")
        serving = aliases.get(alias, alias)
        candidate = aliases.get(CANDIDATE) if shadow else None
        if candidate == serving:
            candidate = None  # nothing to compare
        beside = tuple(dict.fromkeys(aliases.get(other, other) for other in also_serve))
        named = dict.fromkeys([serving, *beside, *([candidate] if candidate else [])])
        return Wanted(serving, beside, candidate, aliases, {version: self._digest(version) for version in named})

    def first(self, alias: str) -> LoadedModel:
        """At start, with the whole machine to measure on. Raises StoreError, SelfTestError.

        int8 may be wrong on a processor, fp32 may not: the version's figures are fp32's.
        """
        version, machine = self._checked(alias), this_machine()
        engine, choice = tuned_engine(version, self._wishes, machine, self._cache)
        if "fp32" in choice.refused:
            raise SelfTestError(choice.refused["fp32"])
        return self._remembered(LoadedModel(version, engine, choice, machine))

    def beside(self, version: str, running: Choice | None) -> LoadedModel:
        """While another one serves: in its threads, without measuring more than a moment's work.

        A lone picture has no more threads than any other until `settle`.
        Raises RefusedVersionError with the reason, whatever went wrong, and StoreUnavailableError.
        """
        started = time.monotonic()
        try:
            loaded = self._loaded_beside(version, running) if running else self.first(version)
        except StoreUnavailableError:
            raise
        except Exception as error:  # whatever a forged version makes a library raise
            raise self._refusal(error) from error
        log(logging.INFO, "version loaded", version=version, seconds=round(time.monotonic() - started, 2))
        return loaded

    def settle(self, loaded: LoadedModel) -> None:
        """What a swap need not wait for: more threads for lone pictures. Raises SelfTestError, StoreError."""
        loaded.engine.add_session_alone(loaded.version, loaded.choice.threads_alone)

    def forget(self, serving: LoadedModel) -> None:
        """Keep no other engine than this version's: nobody has gone back for a while. Their memory is given back."""
        self._kept = {digest: kept for digest, kept in self._kept.items() if digest == serving.version.digest}
        serving.engine.shrink()
        give_memory_back()

    def _loaded_beside(self, version: str, running: Choice) -> LoadedModel:
        checked, machine = self._checked(version), this_machine()
        kept = self._kept.get(checked.digest)
        if kept:
            return self._remembered(LoadedModel(checked, *kept, machine))
        known = self._choices.get(checked.digest)
        if known is None:
            known = self._cache.recall(machine, checked.digest, self._wishes) if self._cache else None
            if known is None or not _has_run_fp32(known):
                Engine(checked, "fp32")  # as at start: the evaluation is of fp32; where it is wrong, trust nothing
        engine, choice = engine_beside(checked, running, known)
        return self._remembered(LoadedModel(checked, engine, choice, machine))

    def _checked(self, version: str) -> ModelVersion:
        """Raises StoreError. Nothing of a graph is run before this.

        What has passed and was not touched since is not read again: hashing every file is a third of a swap's work.
        """
        opened = self.store.open(self.name, version)
        seal = opened.seal()
        if seal is not None and seal == self._seals.get(opened.digest):
            return opened
        verified = self.store.verify(self.name, version, self._policy)
        if verified.digest not in self._seals:
            check_graphs(verified)
        self._seals[verified.digest] = seal
        return verified

    def _remembered(self, loaded: LoadedModel) -> LoadedModel:
        digest = loaded.version.digest
        self._choices[digest] = loaded.choice
        self._kept.pop(digest, None)  # the newest stand last
        self._kept[digest] = (loaded.engine, loaded.choice)
        for oldest in list(self._kept)[:-_KEPT]:
            del self._kept[oldest]
        return loaded

    def _digest(self, version: str) -> str | None:
        try:
            return self.store.open(self.name, version).digest
        except (NotInStoreError, DamagedVersionError):
            return None

    def _refusal(self, error: Exception) -> RefusedVersionError:
        """The reason as operators and `GET /v1/models` are told it: without the place of the store."""
        found: list[RefusalReason] = [reason for kind, reason in _REASONS if isinstance(error, kind)]
        reason = found[0] if found else "load_failed"
        if isinstance(error, StoreError | SelfTestError):
            place = self.store.location
            return RefusedVersionError(reason, str(error).replace(f"{place}/", "").replace(place, "the store"))
        log(logging.ERROR, "version failed to load", exc_info=error)
        # Not its message: libraries quote the data that they fail on.
        return RefusedVersionError(reason, f"{type(error).__name__} while it was loaded")
